//! Handshake messages after the handshake: key updates are followed, a server's tickets are dropped, all else is refused.

const HEADER_BYTES: usize = 4;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// A ticket is four numbers and a blob; those of servers in the field hold a client's chain and stay under 8 KiB.
const MAX_MESSAGE_BYTES: usize = 1 << 15;
/// What a peer may send between two records of application data.
const MAX_MESSAGES: u32 = 32;

/// A message that the connection has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The peer's next record is under its next key. `answer`: ours must change too.
    KeyUpdate { answer: bool },
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// One that has no place here.
    Unexpected,
    /// Too long, or not what its length says.
    Malformed,
    /// Too many without application data between them.
    Flood,
}

impl Refused {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Unexpected => "the peer sent a handshake message that has no place after the handshake",
            Self::Malformed => "the peer sent a malformed handshake message",
            Self::Flood => "the peer floods with messages that carry no data",
        }
    }
}

/// The messages of one connection, over record borders.
pub(crate) struct PostHandshake {
    partial: Vec<u8>,
    budget: u32,
    tickets_allowed: bool,
}

impl PostHandshake {
    /// Only a client may be given tickets.
    pub(crate) fn new(is_client: bool) -> Self {
        Self { partial: Vec::new(), budget: MAX_MESSAGES, tickets_allowed: is_client }
    }

    /// Application data came: the peer does something useful. Refuses it in the middle of a message (RFC 8446, section 5.1).
    pub(crate) fn on_data(&mut self, is_empty: bool) -> Result<(), Refused> {
        if !self.partial.is_empty() {
            return Err(Refused::Unexpected);
        }
        if is_empty {
            return self.spend();
        }
        self.budget = MAX_MESSAGES;
        Ok(())
    }

    /// Takes the content of a handshake record; a key update is always the last of its record.
    pub(crate) fn on_handshake(&mut self, content: &[u8]) -> Result<Option<Message>, Refused> {
        if content.is_empty() {
            return Err(Refused::Malformed);
        }
        self.spend()?;
        self.partial.extend_from_slice(content);
        while let Some((kind, body_len)) = self.next_header()? {
            let end = HEADER_BYTES + body_len;
            if self.partial.len() < end {
                return Ok(None);
            }
            if kind == KEY_UPDATE {
                return self.key_update(end).map(Some);
            }
            self.partial.drain(..end);
            self.spend()?;
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        Ok(None)
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.partial.capacity()
    }

    fn next_header(&self) -> Result<Option<(u8, usize)>, Refused> {
        let Some((&[kind, high, middle, low], _)) = self.partial.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        if !(kind == KEY_UPDATE || kind == NEW_SESSION_TICKET && self.tickets_allowed) {
            return Err(Refused::Unexpected);
        }
        let body_len = u32::from_be_bytes([0, high, middle, low]) as usize;
        if body_len > MAX_MESSAGE_BYTES {
            return Err(Refused::Malformed);
        }
        Ok(Some((kind, body_len)))
    }

    fn key_update(&mut self, end: usize) -> Result<Message, Refused> {
        // Whatever followed it in its record would belong under the next key.
        if self.partial.len() != end {
            return Err(Refused::Unexpected);
        }
        let answer = match self.partial[HEADER_BYTES..] {
            [0] => false,
            [1] => true,
            _ => return Err(Refused::Malformed),
        };
        self.partial = Vec::new();
        Ok(Message::KeyUpdate { answer })
    }

    fn spend(&mut self) -> Result<(), Refused> {
        self.budget = self.budget.checked_sub(1).ok_or(Refused::Flood)?;
        Ok(())
    }
}

/// A key update of ours that asks for none in return.
pub(crate) const OUR_KEY_UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

#[cfg(test)]
mod tests {
    use super::*;

    const ASKING: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];

    fn ticket(len: usize) -> Vec<u8> {
        let mut message = vec![NEW_SESSION_TICKET, 0, (len >> 8) as u8, len as u8];
        message.resize(HEADER_BYTES + len, 7);
        message
    }

    #[test]
    fn key_updates_are_read() {
        let mut messages = PostHandshake::new(false);
        assert_eq!(messages.on_handshake(&OUR_KEY_UPDATE), Ok(Some(Message::KeyUpdate { answer: false })));
        assert_eq!(messages.on_handshake(&ASKING), Ok(Some(Message::KeyUpdate { answer: true })));
    }

    #[test]
    fn a_message_may_span_records_but_data_may_not_come_between() {
        let mut messages = PostHandshake::new(false);
        assert_eq!(messages.on_handshake(&ASKING[..2]), Ok(None));
        assert_eq!(messages.on_data(false), Err(Refused::Unexpected));
        assert_eq!(messages.on_handshake(&ASKING[2..]), Ok(Some(Message::KeyUpdate { answer: true })));
        assert_eq!(messages.on_data(false), Ok(()));
    }

    #[test]
    fn nothing_follows_a_key_update_in_its_record() {
        let twice = [ASKING, ASKING].concat();
        assert_eq!(PostHandshake::new(false).on_handshake(&twice), Err(Refused::Unexpected));
    }

    #[test]
    fn tickets_are_dropped_by_a_client_and_refused_by_a_server() {
        let two = [ticket(300), ticket(0)].concat();
        let mut client = PostHandshake::new(true);
        assert_eq!(client.on_handshake(&two), Ok(None));
        assert_eq!(client.partial.capacity(), 0);
        assert_eq!(PostHandshake::new(false).on_handshake(&two), Err(Refused::Unexpected));
    }

    #[test]
    fn renegotiation_and_later_authentication_are_refused() {
        let (hello_request, client_hello, certificate_request, finished) = ([0, 0, 0, 0], [1, 0, 0, 9], [13, 0, 0, 9], [20, 0, 0, 9]);
        for message in [hello_request, client_hello, certificate_request, finished] {
            assert_eq!(PostHandshake::new(true).on_handshake(&message), Err(Refused::Unexpected), "{message:?}");
            assert_eq!(PostHandshake::new(false).on_handshake(&message), Err(Refused::Unexpected), "{message:?}");
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        let too_long = [NEW_SESSION_TICKET, 1, 0, 0];
        let wrong_value = [KEY_UPDATE, 0, 0, 1, 2];
        let empty_update = [KEY_UPDATE, 0, 0, 0];
        for bad in [&too_long[..], &wrong_value, &empty_update, &[]] {
            assert_eq!(PostHandshake::new(true).on_handshake(bad), Err(Refused::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn a_flood_ends_and_data_restores_the_budget() {
        let mut messages = PostHandshake::new(false);
        for _ in 0..MAX_MESSAGES {
            assert!(messages.on_handshake(&ASKING).is_ok());
        }
        assert_eq!(messages.on_data(true), Err(Refused::Flood));
        assert_eq!(messages.on_handshake(&ASKING), Err(Refused::Flood));
        assert_eq!(messages.on_data(false), Ok(()));
        assert!(messages.on_handshake(&ASKING).is_ok());
    }
}
