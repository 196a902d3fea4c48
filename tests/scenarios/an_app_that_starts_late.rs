//! An app that is opened before it listens: people wait on a page that shows it once it does.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::browser::Answer;
use patchbay_tests::eventually::eventually;
use patchbay_tests::opener::Order;
use patchbay_tests::ports::Ports;
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::socket::{self, Handshake};
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn ask(door: &Door, accept: &str) -> Result<Answer> {
    let request = door.browser.request(Method::GET, &door.at("/"))?;
    door.browser.send(request.header("accept", accept)).await
}

#[tokio::test]
async fn people_wait_on_a_page_and_programs_are_told_when_to_ask_again() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let place = Ports::reserve(1)?;
    let kernel = ([127, 0, 0, 1], place.first()).into();
    let door = rig.open_order(&Order::http("jupyter", kernel)).await?;
    // Again and again: also when the route counts as out of service.
    for _ in 0..5 {
        let page = ask(&door, "text/html,*/*;q=0.8").await?.expect(503)?;
        ensure!(
            page.text().contains("The app is starting"),
            "{}",
            page.text()
        );
        ensure!(page.text().contains("location.reload"), "{}", page.text());
        assert_eq!(page.header("retry-after"), "2");
        assert_eq!(page.header("cache-control"), "no-store");
    }
    let told = ask(&door, "application/json").await?;
    ensure!(
        [502, 503].contains(&told.status.as_u16()),
        "{}",
        told.status
    );
    assert_eq!(told.header("retry-after"), "2");
    ensure!(told.json()?["error_code"].is_string());
    let upgrade = socket::handshake(&door, "/", &door.cookie(), &[]).await?;
    let Handshake::Refused(status, body) = upgrade else {
        anyhow::bail!("an app that does not listen has opened a WebSocket");
    };
    ensure!([502, 503].contains(&status.as_u16()), "{status}: {body}");

    let listener = TcpListener::bind(kernel).await?;
    let app = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            // A probe connects and says nothing.
            if !matches!(stream.read(&mut head).await, Ok(1..)) {
                continue;
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).await?;
        }
        anyhow::Ok(())
    });
    eventually("the app is shown", Duration::from_secs(5), async || {
        let page = ask(&door, "text/html").await?.expect(200)?;
        ensure!(page.text() == "hello", "{}", page.text());
        Ok(())
    })
    .await?;
    app.abort();
    Ok(())
}
