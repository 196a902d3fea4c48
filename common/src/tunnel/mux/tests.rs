use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::timeout;

use super::{AgentEnd, GatewayEnd, MuxStream, OpenError, Opener, Settings};

/// An agent whose tunnels `echo`, `sink` (never reads) and `talk` (never stops) work.
async fn pair(settings: Settings) -> (Opener, tokio::task::JoinHandle<()>) {
    let (near, far) = duplex(16 << 10);
    tokio::spawn(agent(far, settings));
    let (opener, end) = GatewayEnd::begin(near, settings).await.unwrap();
    (opener, tokio::spawn(end.run()))
}

async fn agent(io: DuplexStream, settings: Settings) {
    let end = AgentEnd::begin(io, settings).await.unwrap();
    let _ = end
        .run(|call| match call.tunnel() {
            "echo" => drop(tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(call.accept().unwrap());
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            })),
            "sink" => drop(tokio::spawn(async move {
                let _stream = call.accept().unwrap();
                std::future::pending::<()>().await;
            })),
            "talk" => drop(tokio::spawn(async move {
                let mut stream = call.accept().unwrap();
                while stream.write_all(&[7; 4_096]).await.is_ok() {}
            })),
            "late" => call.timed_out(),
            "down" => call.unreachable("connection refused"),
            _ => call.unknown(),
        })
        .await;
}

async fn open(opener: &Opener, name: &str) -> Result<MuxStream, OpenError> {
    opener.open(&name.parse().unwrap()).await
}

async fn echoes(opener: &Opener, text: &str) {
    let mut stream = open(opener, "echo").await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, text);
}

#[tokio::test]
async fn streams_carry_bytes_and_half_close() {
    let (opener, _) = pair(Settings::default()).await;
    let all = (0..200).map(|number| {
        let opener = opener.clone();
        async move { echoes(&opener, &format!("stream {number} ").repeat(2_000)).await }
    });
    for task in all.map(tokio::spawn).collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn refusals_say_why() {
    let (opener, _) = pair(Settings::default()).await;
    assert_eq!(
        open(&opener, "nobody").await.unwrap_err(),
        OpenError::Unknown
    );
    assert_eq!(
        open(&opener, "late").await.unwrap_err(),
        OpenError::TimedOut
    );
    let down = OpenError::Unreachable("connection refused".into());
    assert_eq!(open(&opener, "down").await.unwrap_err(), down);
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody_else_and_is_bounded() {
    let (opener, _) = pair(Settings::default()).await;
    // Streams nobody reads, on either side, with more to carry than their windows.
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut sink = open(&opener, "sink").await.unwrap();
        let mut written = 0;
        while let Ok(count) = timeout(Duration::from_millis(50), sink.write(&[1; 65_536])).await {
            written += count.unwrap();
        }
        assert!(written <= (256 << 10) + (64 << 10), "{written} bytes wait");
        stuck.push(sink);
        stuck.push(open(&opener, "talk").await.unwrap());
    }
    timeout(Duration::from_secs(20), echoes(&opener, "still quick"))
        .await
        .unwrap();
}

#[tokio::test]
async fn visitors_that_leave_in_the_middle_cost_the_connection_nothing() {
    let (opener, _) = pair(Settings::default()).await;
    for _ in 0..40 {
        let leaving = (0..100).map(|_| {
            let opener = opener.clone();
            tokio::spawn(async move {
                let mut stream = open(&opener, "talk").await.unwrap();
                stream.read_exact(&mut [0; 1_000]).await.unwrap();
            })
        });
        for one in leaving.collect::<Vec<_>>() {
            one.await.unwrap();
        }
    }
    echoes(&opener, "still there").await;
}

#[tokio::test]
async fn a_broken_connection_ends_its_streams() {
    let (opener, end) = pair(Settings::default()).await;
    let mut stream = open(&opener, "echo").await.unwrap();
    end.abort();
    assert!(stream.read(&mut [0; 8]).await.is_err());
    assert_eq!(open(&opener, "echo").await.unwrap_err(), OpenError::Gone);
    assert!(!opener.answers(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_connection() {
    let (near, far) = duplex(64 << 10);
    let settings = Settings::default();
    let (opener, end) = GatewayEnd::begin(near, settings).await.unwrap();
    // `far` is held, and never answers.
    let patience = settings.ping_every + settings.ping_patience + Duration::from_secs(1);
    timeout(patience, end.run()).await.unwrap();
    assert_eq!(open(&opener, "echo").await.unwrap_err(), OpenError::Gone);
    drop(far);
}

#[tokio::test]
async fn life_is_shown_on_demand() {
    let (opener, _) = pair(Settings::default()).await;
    assert!(opener.answers(Duration::from_secs(5)).await);
}
