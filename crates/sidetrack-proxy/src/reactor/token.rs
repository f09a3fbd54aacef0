//! What an epoll event concerns. An event has 64 bits of data for that.

use rustix::event::epoll::EventData;

/// Identifies a socket within its event loop.
pub(crate) trait SocketId: Copy {
    /// The number that epoll returns with each event of this socket. It is less than 2⁶³.
    fn number(self) -> u64;
    /// The socket with this number.
    fn from_number(number: u64) -> Self;
}

/// What an event concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<S> {
    /// The stop.
    Stop,
    /// The listener's socket with this index.
    Listener(usize),
    /// A socket of the handler.
    Socket(S),
}

/// The number of sockets that a listener may have. Sidetrack's have one for each family.
pub(super) const LISTENER_SOCKETS_MAX: usize = 16;

/// The largest number stands for the stop, the ones before it for the listener's sockets.
const STOP: u64 = u64::MAX;
const LISTENER: u64 = STOP - LISTENER_SOCKETS_MAX as u64;

/// The data of the stop's event.
pub(super) fn stop_data() -> EventData {
    EventData::new_u64(STOP)
}

/// The data of an event of the listener's socket with this index, which is less than
/// [`LISTENER_SOCKETS_MAX`].
pub(super) fn listener_data(socket: usize) -> EventData {
    EventData::new_u64(LISTENER + socket as u64)
}

/// The data of an event of the handler's socket.
pub(super) fn socket_data(socket: impl SocketId) -> EventData {
    EventData::new_u64(socket.number())
}

impl<S: SocketId> Token<S> {
    /// What an event with this data concerns.
    pub(super) fn decode(data: EventData) -> Self {
        match data.u64() {
            STOP => Self::Stop,
            number if number >= LISTENER => Self::Listener((number - LISTENER) as usize),
            number => Self::Socket(S::from_number(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Number(u64);

    impl SocketId for Number {
        fn number(self) -> u64 {
            self.0
        }

        fn from_number(number: u64) -> Self {
            Self(number)
        }
    }

    #[test]
    fn the_data_of_an_event_says_what_it_concerns() {
        for (data, token) in [
            (stop_data(), Token::Stop),
            (listener_data(0), Token::Listener(0)),
            (
                listener_data(LISTENER_SOCKETS_MAX - 1),
                Token::Listener(LISTENER_SOCKETS_MAX - 1),
            ),
            (socket_data(Number(0)), Token::Socket(Number(0))),
            (
                socket_data(Number((1 << 63) - 1)),
                Token::Socket(Number((1 << 63) - 1)),
            ),
        ] {
            assert_eq!(Token::decode(data), token);
        }
    }
}
