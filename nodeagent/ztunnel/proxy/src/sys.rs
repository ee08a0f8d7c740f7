//! System calls of sockets and of this process, each in a few lines, over libraries that make them safe.

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::net::TcpStream;

/// Marks the proxy's own connections, so that capture leaves them alone.
const MARK_OWN: u32 = 0x539;
/// Marks connections to the application that keep the client's address, so that their replies come back here.
const MARK_TO_APPLICATION: u32 = 0x111;

/// Where a captured connection was going: the socket's own address, unless translation turned it to loopback, which is never captured.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let own = stream.local_addr().map(canonical)?;
    if own.ip().is_loopback() { before_translation(stream) } else { Ok(own) }
}

/// The same for a listener of `port`, to which translation turns what comes in, at whichever address of the pod: nothing else is for that
/// port, so that what was not translated is for the port itself.
pub fn original_destination_by(port: u16, stream: &TcpStream) -> io::Result<SocketAddr> {
    let own = stream.local_addr().map(canonical)?;
    if own.port() == port { before_translation(stream).or(Ok(own)) } else { Ok(own) }
}

fn before_translation(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = if stream.local_addr()?.is_ipv4() { socket.original_dst_v4()? } else { socket.original_dst_v6()? };
    address.as_socket().map(canonical).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// The kernel's number for a socket, which no other one ever has; None if it tells none.
pub fn cookie(stream: &TcpStream) -> Option<u64> {
    SockRef::from(stream).cookie().ok()
}

/// An IPv4 address that a dual-stack socket shows as IPv6, as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub fn tcp_socket(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)
}

/// Makes a socket one that goes out as the proxy, from the pod's own address.
pub fn prepare_outgoing(socket: &Socket) -> io::Result<()> {
    socket.set_mark(MARK_OWN)?;
    prepare(socket)
}

/// Makes a socket one that reaches the application of this pod with the client's address, and the given port, as its source.
///
/// Bound to `lo`, so that no packet of it can leave the pod, unless the pod itself is the client (`own`): the kernel counts what
/// comes to the pod's own addresses as of the interface that has them, and such a socket would never see its answer.
/// A client of the other IP family cannot be shown: then, too, the pod is the source.
pub fn prepare_to_application(socket: &Socket, client: SocketAddr, v6: bool, own: bool) -> io::Result<()> {
    socket.set_mark(MARK_TO_APPLICATION)?;
    prepare(socket)?;
    stays_on_node(&SockRef::from(socket));
    if client.is_ipv6() != v6 {
        return Ok(());
    }
    if !own {
        socket.bind_device(Some(b"lo"))?;
    }
    if v6 {
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    // Many connections of one port to different applications, and ports whose last connection has just ended.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(client))
}

/// Makes a socket one that reaches an application at an address of this host, from that very address: by which the kernel's part of the
/// capture knows that it does not come from outside. The kernel may give it a port that another one of these has: then connecting fails.
pub fn prepare_within_host(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    prepare_outgoing(socket)?;
    stays_on_node(&SockRef::from(socket));
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(to.ip(), 0)))?;
    // Nobody may listen there, and then it would connect to itself.
    let own = socket.local_addr()?.as_socket().map(|own| own.port());
    if own == Some(to.port()) { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(()) }
}

fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(socket))
}

/// For a connection whose both ends are on this node: there is no network to probe, so the simplest congestion control will do.
/// One that paces (BBR) would send by timers what can be delivered at once. Accepted sockets have it from their listener.
pub fn stays_on_node(socket: &SockRef<'_>) {
    // Built into every kernel; where it is refused all the same, the default works too.
    let _ = socket.set_tcp_congestion(b"reno");
}

/// What accepted sockets need: Linux gives them the options of their listener.
pub fn prepare_listener(listener: &std::net::TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket)
}

fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(180)).with_interval(Duration::from_secs(30)).with_retries(5);
    socket.set_tcp_keepalive(&keepalive)
}

/// The next close resets the connection, so that the other end sees an error instead of a clean end.
pub fn reset_on_close(stream: &TcpStream) {
    // Fails only on a socket that is broken already.
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

/// Ends our direction.
pub fn shut_down_writing(stream: &TcpStream) {
    // Fails only if the connection is gone, which the reading side will see.
    drop(SockRef::from(stream).shutdown(std::net::Shutdown::Write));
}

/// Moves the calling thread into a network namespace.
pub fn enter_network_namespace(namespace: &impl AsFd) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Whether both descriptors are of one file, or of one namespace.
pub fn is_same_file(one: &impl AsFd, other: &impl AsFd) -> bool {
    let number = |of: &dyn AsFd| rustix::fs::fstat(of.as_fd()).map(|status| (status.st_dev, status.st_ino));
    matches!((number(one), number(other)), (Ok(one), Ok(other)) if one == other)
}

/// The network namespace of the calling thread.
pub fn own_network_namespace() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

/// Private keys live in this process: no core of it is ever written, and no other process of this user may look inside.
pub fn forbid_core_dumps() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Raises the limit of descriptors as far as this process may.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, the limit that there is holds: running out is handled.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
