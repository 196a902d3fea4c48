use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::{Giver, Listeners, Predecessor};

const LOOPBACK: &str = "127.0.0.1:0";

/// More sockets than one message carries.
const SOCKETS: usize = 200;

fn listening(count: usize) -> Arc<Listeners> {
    let listeners = Arc::new(Listeners::new(Vec::new(), true));
    for _ in 0..count {
        listeners.listen(LOOPBACK.parse().unwrap()).unwrap();
    }
    listeners
}

#[tokio::test]
async fn all_sockets_pass_and_the_old_process_goes_on_until_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    assert!(
        Predecessor::ask(&path).unwrap().is_none(),
        "nobody is there"
    );

    let old = listening(SOCKETS);
    let giver = Arc::new(Giver::new(path.clone(), Arc::clone(&old)));
    let socket = giver.open().unwrap();
    let giving = tokio::spawn({
        let giver = Arc::clone(&giver);
        async move { giver.give(socket).await }
    });

    // One that asks and goes away costs nothing.
    let asked = path.clone();
    let first = tokio::task::spawn_blocking(move || Predecessor::ask(&asked).unwrap().unwrap().1);
    assert_eq!(first.await.unwrap().len(), SOCKETS);
    assert!(!giver.has_given());

    let asked = path.clone();
    let taking = tokio::task::spawn_blocking(move || Predecessor::ask(&asked).unwrap().unwrap());
    let (predecessor, sockets) = taking.await.unwrap();
    let addresses: Vec<SocketAddr> = sockets.iter().map(|(address, _)| *address).collect();
    let new = Listeners::new(sockets, true);
    let listener = new.listen(addresses[SOCKETS - 1]).unwrap();
    assert!(!giver.has_given());
    predecessor.release().unwrap();
    tokio::time::timeout(Duration::from_secs(10), giving)
        .await
        .unwrap()
        .unwrap();
    assert!(giver.has_given());
    old.release();

    // The socket lives on in the new process.
    listener.set_nonblocking(false).unwrap();
    let mut client = TcpStream::connect(addresses[SOCKETS - 1]).unwrap();
    client.write_all(b"!").unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");

    // What the new one has no use for is closed.
    new.drop_unused();
    assert!(TcpStream::connect(addresses[0]).is_err());
    assert_eq!(new.copies().unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_left_behind_is_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    let giver = Giver::new(path.clone(), listening(1));
    drop(giver.open().unwrap());
    assert!(path.exists());
    assert!(Predecessor::ask(&path).unwrap().is_none());
    assert!(giver.open().is_ok());
    giver.close();
    assert!(!path.exists());
}
