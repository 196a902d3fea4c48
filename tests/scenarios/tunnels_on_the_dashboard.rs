//! The operators' page in a real browser, where one is installed; what it is made of, and who may
//! see it, everywhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::gateway::Gateway;
use patchbay_tests::lending::{Agent, lend, section};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest the browser may take for everything.
const LOOKED: Duration = Duration::from_secs(180);

#[tokio::test]
async fn only_operators_see_it_and_it_loads_nothing_from_elsewhere() -> Result<()> {
    let gateway = Gateway::start(&section("")).await?;
    let page = gateway.get("/", &[]).await?.expect(200)?;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    ensure!(policy.starts_with("default-src 'none'"), "{policy}");
    for elsewhere in ["http://", "https://", "src=\"/", "url("] {
        let mut found = page.text();
        found = found.replace("--tunnel web=http://localhost:3000", "");
        ensure!(!found.contains(elsewhere), "{elsewhere} is in the page");
    }
    let elsewhere = section("operators = [\"10.0.0.0/8\"]");
    let other = Gateway::start(&elsewhere).await?;
    for path in ["/", "/api/tunnels"] {
        other.get(path, &[]).await?.expect(403)?;
    }
    Ok(())
}

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders = std::env::var_os("PATH")?;
    let mut all =
        std::env::split_paths(&folders).flat_map(|folder| names.map(|name| folder.join(name)));
    all.find(|file| file.is_file())
}

/// Pictures are left in the folder `PATCHBAY_PICTURES` names, if it names one.
#[tokio::test]
async fn it_works_in_a_real_browser() -> Result<()> {
    let Some(browser) = chromium() else {
        crate::report_figure(format_args!(
            "the dashboard was not looked at: there is no Chromium (apt-get install chromium)"
        ));
        return Ok(());
    };
    let (gateway, app) = (Gateway::start(&section("")).await?, App::start().await?);
    let (web, api) = (lend("web", &app), lend("api@sesame", &app));
    let _agent = Agent::start(&gateway, "laptop", &[&web, &api]).await?;
    let _other = Agent::start(&gateway, "lab-machine", &[&lend("notebook", &app)]).await?;
    let visits = async {
        for number in 0.. {
            let path = match number % 9 {
                0 => "/t/web/status/503".to_owned(),
                1 => "/t/web/status/404".to_owned(),
                2 => "/t/notebook/download/20000".to_owned(),
                _ => format!("/t/web/hello?n={number}"),
            };
            gateway.get(&path, &[]).await?;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dashboard.py");
    let pictures = std::env::var_os("PATCHBAY_PICTURES").map(PathBuf::from);
    let pictures = pictures.unwrap_or_else(|| gateway.folder.path().join("pictures"));
    let mut looking = Command::new("python3");
    looking
        .arg(script)
        .arg(browser)
        .arg(format!("http://{}/", gateway.address()))
        .arg(&pictures)
        .kill_on_drop(true);
    let looked = tokio::select! {
        looked = timeout(LOOKED, looking.output()) => looked.context("the browser takes too long")??,
        ended = visits => anyhow::bail!("visiting ended: {ended:?}"),
    };
    let said = String::from_utf8_lossy(&looked.stderr);
    ensure!(looked.status.success(), "{said}");
    for name in ["desk-light", "desk-dark", "phone-light", "phone-dark"] {
        let picture = std::fs::metadata(pictures.join(format!("{name}.png")))?;
        ensure!(picture.len() > 10_000, "{name}.png is nearly empty");
    }
    Ok(())
}
