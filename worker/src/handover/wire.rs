//! What passes between the two processes: a word, then sockets in batches (a system call carries
//! at most 253), each batch with the addresses they listen on.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// What a new process says first; the number is the protocol's.
pub(super) const TAKE: &[u8; 8] = b"take 1\n\n";
/// What it says when it accepts connections.
pub(super) const READY: &[u8; 8] = b"ready 1\n";

/// Sockets in one message.
const BATCH: usize = 64;
/// Bytes of one address in a message, the longest IPv6 one with a scope included.
const ADDRESS: usize = 64;
/// Bytes of a message: how many addresses, then the addresses, padded.
const MESSAGE: usize = 1 + BATCH * ADDRESS;

/// Sends all sockets, and that there are no more.
pub(super) fn send(
    stream: &mut UnixStream,
    sockets: &[(SocketAddr, TcpListener)],
) -> io::Result<()> {
    for batch in sockets.chunks(BATCH) {
        send_batch(stream, batch)?;
    }
    send_batch(stream, &[])
}

fn send_batch(stream: &mut UnixStream, batch: &[(SocketAddr, TcpListener)]) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    message[0] = u8::try_from(batch.len()).map_err(io::Error::other)?;
    for ((address, _), room) in batch.iter().zip(message[1..].chunks_exact_mut(ADDRESS)) {
        let mut room = &mut room[..];
        write!(room, "{address}")?;
    }
    let sockets: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("no room for the sockets"));
    }
    let sent = sendmsg(
        &*stream,
        &[IoSlice::new(&message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    // The sockets went with the first byte.
    stream.write_all(&message[sent..])
}

/// Receives what [`send`] sends.
pub(super) fn receive(stream: &mut UnixStream) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut all = Vec::new();
    loop {
        let batch = receive_batch(stream)?;
        if batch.is_empty() {
            return Ok(all);
        }
        all.extend(batch);
    }
}

fn receive_batch(stream: &mut UnixStream) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut message = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &*stream,
        &mut [IoSliceMut::new(&mut message)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let sockets: Vec<OwnedFd> = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut message[received.bytes..])?;
    let count = usize::from(message[0]);
    if count != sockets.len() || count > BATCH {
        let text = format!("{count} addresses came with {} sockets", sockets.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let addresses = message[1..].chunks_exact(ADDRESS).map(parse);
    addresses
        .zip(sockets)
        .map(|(address, socket)| Ok((address?, TcpListener::from(socket))))
        .collect()
}

fn parse(room: &[u8]) -> io::Result<SocketAddr> {
    let end = room.iter().position(|byte| *byte == 0);
    let text = std::str::from_utf8(&room[..end.unwrap_or(room.len())]).unwrap_or_default();
    text.parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("no address: {text}")))
}
