use super::*;
use tokio::io::duplex;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_is_cut_off_in_total() {
    let (mut client, server) = duplex(64);
    let mut guarded = Guarded::new(server, Wire::Http1, PATIENCE);
    let trickle = async {
        loop {
            if client.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let started = Instant::now();
    let read = async {
        let mut byte = [0];
        loop {
            if let Err(error) = guarded.read_exact(&mut byte).await {
                return error.kind();
            }
        }
    };
    let kind = tokio::select! {
        () = trickle => unreachable!(),
        kind = read => kind,
    };
    assert_eq!(kind, io::ErrorKind::TimedOut);
    assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_body_may_take_its_time_and_the_next_head_has_a_deadline_of_its_own() {
    let (mut client, server) = duplex(64);
    let mut guarded = Guarded::new(server, Wire::Http1, PATIENCE);
    guarded.control().head_read();
    let mut byte = [0];
    let long = PATIENCE * 5;
    assert!(
        tokio::time::timeout(long, guarded.read_exact(&mut byte))
            .await
            .is_err()
    );
    guarded.control().rest();
    assert!(
        tokio::time::timeout(long, guarded.read_exact(&mut byte))
            .await
            .is_err()
    );
    client.write_all(b"G").await.unwrap();
    guarded.read_exact(&mut byte).await.unwrap();
    let started = Instant::now();
    let error = guarded.read_exact(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
}

#[tokio::test]
async fn a_silent_request_ends_when_its_circuit_closes() {
    let (_client, server) = duplex(64);
    let mut guarded = Guarded::new(server, Wire::Http1, PATIENCE);
    let closed = CancellationToken::new();
    guarded.control().carry(&closed);
    let mut byte = [0];
    let close = async {
        tokio::task::yield_now().await;
        closed.cancel();
    };
    let (read, ()) = tokio::join!(guarded.read_exact(&mut byte), close);
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
