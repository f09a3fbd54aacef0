//! Tests of the SDK on Windows and under Wine. They issue the real control codes, without a driver
//! that redirects; Wine does not support the codes.
#![cfg(windows)]

use std::net::{TcpListener, TcpStream, UdpSocket};

use sidetrack::{DatagramListener, Error, Listener, Records, Service};
use socket2::{Domain, Socket, Type};

fn connected_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Whether the error says that there is no redirection: Wine answers WSAEOPNOTSUPP, and Windows
/// answers that nothing is recorded.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NoEngine | Error::NotRedirected)
}

#[test]
fn a_connection_that_was_not_redirected_has_no_flow() {
    let (accepted, _client) = connected_pair();
    let error = sidetrack::query(&accepted).unwrap_err();
    assert!(is_absent(&error), "{error}");
}

#[test]
fn an_unconnected_socket_has_no_flow() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = sidetrack::query(&socket).unwrap_err();
    assert!(
        matches!(error, Error::NotConnected) || is_absent(&error),
        "{error}"
    );
}

#[test]
fn records_are_refused_without_a_redirecting_driver() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = sidetrack::set_records(&socket, &Records::from_bytes(&[7; 32])).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoEngine | Error::BadRecords | Error::System { .. }
        ),
        "{error}"
    );
}

#[test]
fn listener_listens_on_the_address_of_its_service() {
    let service = Service::at("127.0.0.1:0".parse().unwrap());
    let listener = Listener::bind(&service).unwrap();
    let address = listener.addresses().unwrap()[0];
    let _client = TcpStream::connect(address).unwrap();
    if is_wine() {
        assert!(matches!(listener.accept(), Err(Error::NoEngine)));
    }
}

#[test]
fn a_datagram_that_was_not_redirected_has_no_control_data() {
    let listener = match DatagramListener::bind(&Service::at("127.0.0.1:0".parse().unwrap())) {
        Err(Error::NoEngine) => return, // Wine does not know the options
        bound => bound.unwrap(),
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .send_to(b"hello", listener.socket().local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 64];
    let datagram = listener.receive(&mut buffer).unwrap();
    assert_eq!(&buffer[..datagram.length], b"hello");
    assert!(datagram.records.is_none() && datagram.parsed_context().is_none());
}

#[test]
fn without_the_environment_variable_there_are_no_credentials() {
    assert!(matches!(Service::from_env(), Err(Error::NoCredentials(_))));
}

fn is_wine() -> bool {
    std::env::var_os("WINELOADERNOEXEC").is_some() || std::env::var_os("WINEPREFIX").is_some()
}
