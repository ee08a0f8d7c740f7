//! A connection whose handshake is complete: records in, records out, and the changes of keys between them.

use std::mem;

use rustls::ExtractedSecrets;

use crate::alert;
use crate::error::{Stage, TlsError};
use crate::handshake::KeySchedule;
use crate::post_handshake::{Message, OUR_KEY_UPDATE, PostHandshake, Refused};
use crate::record::{BadRecord, Content, MAX_PLAINTEXT_BYTES, Opener, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, Sealer, sealed_len};

/// What ends the connection, and the alert that says so to the peer, if it should be told.
struct Ending {
    error: TlsError,
    alert: Option<u8>,
}

impl Ending {
    fn protocol(reason: &str, alert: u8) -> Self {
        Self { error: TlsError::protocol(Stage::Records, reason), alert: Some(alert) }
    }

    fn internal(reason: impl Into<String>) -> Self {
        Self { error: TlsError::internal(Stage::Records, reason), alert: Some(alert::INTERNAL_ERROR) }
    }
}

impl From<BadRecord> for Ending {
    fn from(bad: BadRecord) -> Self {
        match bad {
            BadRecord::Overflow => Self::protocol("the peer sent a record that is too long", alert::RECORD_OVERFLOW),
            BadRecord::Unexpected => Self::protocol("the peer sent what is no sealed record", alert::UNEXPECTED_MESSAGE),
            BadRecord::Forged => Self::protocol("a record was not sealed by the peer", alert::BAD_RECORD_MAC),
        }
    }
}

impl From<Refused> for Ending {
    fn from(refused: Refused) -> Self {
        let alert = match refused {
            Refused::Malformed => alert::DECODE_ERROR,
            Refused::Unexpected | Refused::Flood => alert::UNEXPECTED_MESSAGE,
        };
        Self::protocol(refused.reason(), alert)
    }
}

/// The state of an open connection.
pub(crate) struct Open {
    keys: KeySchedule,
    opener: Opener,
    sealer: Sealer,
    messages: PostHandshake,
    /// The beginning of a record whose end has not come; no memory otherwise.
    partial: Vec<u8>,
    /// The peer asked us to change our key, too.
    answer_key_update: bool,
    pub(crate) peer_closed: bool,
    closed: bool,
}

impl Open {
    pub(crate) fn new(secrets: ExtractedSecrets, keys: KeySchedule) -> Result<Self, TlsError> {
        let unusable = |_| TlsError::internal(Stage::Handshake, "the agreed keys cannot be used");
        Ok(Self {
            opener: Opener::new(secrets.rx).map_err(unusable)?,
            sealer: Sealer::new(secrets.tx).map_err(unusable)?,
            messages: PostHandshake::new(keys.is_client()),
            keys,
            partial: Vec::new(),
            answer_key_update: false,
            peer_closed: false,
            closed: false,
        })
    }

    /// Opens the records of `input`; keeps the beginning of one that is incomplete. What follows the peer's close is ignored.
    /// A record that an earlier input began is put together in `joined`.
    pub(crate) fn receive<'i>(
        &mut self,
        input: &'i mut [u8],
        joined: &'i mut Vec<u8>,
        out: &mut Vec<u8>,
        on_plain: &mut impl FnMut(&'i [u8]),
    ) -> Result<(), TlsError> {
        self.open_all(input, joined, on_plain).map_err(|ending| {
            if let Some(description) = ending.alert {
                // The error that is reported is the first one.
                let _ = self.send_alert(description, out);
            }
            ending.error
        })
    }

    fn open_all<'i>(&mut self, input: &'i mut [u8], joined: &'i mut Vec<u8>, on_plain: &mut impl FnMut(&'i [u8])) -> Result<(), Ending> {
        let mut rest = self.complete_partial(input, joined, on_plain)?;
        while !self.peer_closed {
            let Some(len) = sealed_len(rest)? else { break };
            if len > rest.len() {
                break;
            }
            let (record, behind) = rest.split_at_mut(len);
            self.open_record(record, on_plain)?;
            rest = behind;
        }
        if !self.peer_closed && !rest.is_empty() {
            self.partial.reserve_exact(sealed_len(rest)?.unwrap_or(rest.len()));
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Completes the record that an earlier input began, as far as `input` goes; returns what is left of it.
    fn complete_partial<'i>(
        &mut self,
        mut input: &'i mut [u8],
        joined: &'i mut Vec<u8>,
        on_plain: &mut impl FnMut(&'i [u8]),
    ) -> Result<&'i mut [u8], Ending> {
        while !self.partial.is_empty() && !input.is_empty() {
            let wanted = sealed_len(&self.partial)?.unwrap_or(self.partial.len() + 1) - self.partial.len();
            let (taken, rest) = input.split_at_mut(wanted.min(input.len()));
            input = rest;
            self.partial.reserve_exact(wanted);
            self.partial.extend_from_slice(taken);
            if sealed_len(&self.partial)? == Some(self.partial.len()) {
                *joined = mem::take(&mut self.partial);
                self.open_record(joined, on_plain)?;
                return Ok(input);
            }
        }
        Ok(input)
    }

    fn open_record<'i>(&mut self, record: &'i mut [u8], on_plain: &mut impl FnMut(&'i [u8])) -> Result<(), Ending> {
        match self.opener.open(record)? {
            (Content::ApplicationData, plain) => {
                self.messages.on_data(plain.is_empty())?;
                if !plain.is_empty() {
                    on_plain(plain);
                }
            }
            (Content::Handshake, content) => {
                if let Some(Message::KeyUpdate { answer }) = self.messages.on_handshake(content)? {
                    let secrets = self.keys.next_receiving().map_err(|error| Ending::internal(error.to_string()))?;
                    self.opener = Opener::new(secrets).map_err(|_| Ending::internal("the next key cannot be used"))?;
                    self.answer_key_update |= answer;
                }
            }
            (Content::Alert, &[_, alert::CLOSE_NOTIFY]) => self.peer_closed = true,
            (Content::Alert, &[_, alert::USER_CANCELED]) => self.messages.on_data(true)?,
            (Content::Alert, &[_, description]) => {
                let (class, reason) = alert::received(description);
                return Err(Ending { error: TlsError { stage: Stage::Records, class, reason }, alert: None });
            }
            (Content::Alert, _) => return Err(Ending::protocol("the peer sent a malformed alert", alert::DECODE_ERROR)),
        }
        Ok(())
    }

    fn change_sending_key(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let secrets = self.keys.next_sending().map_err(|error| TlsError::internal(Stage::Records, error.to_string()))?;
        let next = Sealer::new(secrets).map_err(|_| unsealed())?;
        self.seal_whole(Content::Handshake, &OUR_KEY_UPDATE, out)?;
        self.sealer = next;
        self.answer_key_update = false;
        Ok(())
    }

    fn seal_whole(&mut self, content: Content, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let start = Sealer::start(out);
        out.extend_from_slice(plain);
        self.sealer.finish(content, out, start).map_err(|_| unsealed())
    }

    /// Opens a record of application data in `out`, under a fresh key if the old one is worn or the peer asked for one.
    ///
    /// No sooner (RFC 8446, section 4.6.3, asks for no more): a peer that asks again and again, and reads nothing, makes us queue nothing.
    pub(crate) fn start_record(&mut self, out: &mut Vec<u8>) -> Result<usize, TlsError> {
        if self.closed {
            return Err(TlsError::internal(Stage::Records, "data after our close"));
        }
        if self.sealer.is_worn() || self.answer_key_update {
            self.change_sending_key(out)?;
        }
        Ok(Sealer::start(out))
    }

    /// Seals the record, unless nothing was put into it.
    pub(crate) fn finish_record(&mut self, out: &mut Vec<u8>, start: usize) -> Result<(), TlsError> {
        if out.len() == start + RECORD_HEADER_BYTES {
            out.truncate(start);
            return Ok(());
        }
        self.sealer.finish(Content::ApplicationData, out, start).map_err(|_| unsealed())
    }

    /// Seals `parts` as if they were one: records are filled across their borders.
    pub(crate) fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        out.reserve(left + left.div_ceil(MAX_PLAINTEXT_BYTES) * RECORD_OVERHEAD_BYTES);
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        while left > 0 {
            let start = self.start_record(out)?;
            let mut room = left.min(MAX_PLAINTEXT_BYTES);
            left -= room;
            while room > 0 {
                if part.is_empty() {
                    part = parts.next().unwrap_or_default();
                }
                let (now, later) = part.split_at(room.min(part.len()));
                out.extend_from_slice(now);
                room -= now.len();
                part = later;
            }
            self.finish_record(out, start)?;
        }
        Ok(())
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.partial.capacity() + self.messages.buffered_bytes()
    }

    #[cfg(test)]
    pub(crate) fn wear_out_sending(&mut self) {
        self.sealer.wear_out();
    }

    #[cfg(test)]
    pub(crate) fn wear_out_receiving(&mut self) {
        self.opener.wear_out();
    }

    /// Ends our side, once.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.send_alert(alert::CLOSE_NOTIFY, out)
    }

    /// Says why our side ends, unless it has ended.
    pub(crate) fn send_alert(&mut self, description: u8, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.seal_whole(Content::Alert, &alert::encode(description), out)
    }
}

fn unsealed() -> TlsError {
    TlsError::internal(Stage::Records, "a record could not be sealed")
}
