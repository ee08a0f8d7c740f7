//! From decoded fields to a request or an answer: what a CONNECT message may hold (RFC 9113, sections 8.2, 8.3 and 8.5).

use crate::headers::{is_authority, is_name, is_value};
use crate::{Headers, Malformed};

/// Gathers the fields of a request.
#[derive(Debug, Default)]
pub(crate) struct RequestFields {
    /// Whether it is CONNECT.
    method: Option<bool>,
    authority: Option<String>,
    /// Compared with the authority at the end: another target beside it would be two answers to one question.
    hosts: Vec<Vec<u8>>,
    headers: Headers,
    malformed: Option<Malformed>,
    regular_seen: bool,
}

impl RequestFields {
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        let verdict = if name.starts_with(b":") { self.pseudo(name, value) } else { self.regular(name, value) };
        if let Err(reason) = verdict {
            self.malformed.get_or_insert(reason);
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if self.regular_seen {
            return Err(Malformed::PseudoHeader);
        }
        match name {
            b":method" if self.method.is_none() => {
                self.method = Some(value == b"CONNECT");
                Ok(())
            }
            b":authority" if self.authority.is_none() => {
                // Kept only if it can be told in full, so that no caller judges less than what was sent.
                let text = if is_authority(value) { String::from_utf8(value.to_vec()).ok() } else { None };
                let verdict = text.as_ref().map(|_| ()).ok_or(Malformed::Authority);
                self.authority = Some(text.unwrap_or_default());
                verdict
            }
            b":scheme" => Err(Malformed::Scheme),
            b":path" => Err(Malformed::Path),
            b":protocol" => Err(Malformed::Protocol),
            _ => Err(Malformed::PseudoHeader),
        }
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        self.regular_seen = true;
        check_regular(name, value)?;
        if name == b"host" {
            self.hosts.push(value.to_vec());
        }
        self.headers.push(name, value);
        Ok(())
    }

    /// The authority, the regular fields, and what is wrong with them.
    pub(crate) fn finish(self) -> (String, Headers, Option<Malformed>) {
        let authority = self.authority.unwrap_or_default();
        let malformed = self.malformed.or(if self.method != Some(true) {
            Some(Malformed::Method)
        } else if authority.is_empty() || self.hosts.iter().any(|host| host != authority.as_bytes()) {
            Some(Malformed::Authority)
        } else {
            None
        });
        (authority, self.headers, malformed)
    }
}

/// Gathers what matters of an answer: the status, and whether the message is well-formed.
#[derive(Debug, Default)]
pub(crate) struct ResponseFields {
    status: Option<u16>,
    malformed: bool,
    regular_seen: bool,
}

impl ResponseFields {
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        if !name.starts_with(b":") {
            self.regular_seen = true;
            self.malformed |= check_regular(name, value).is_err();
            return;
        }
        match (name, parse_status(value)) {
            (b":status", Some(status)) if self.status.is_none() && !self.regular_seen => self.status = Some(status),
            _ => self.malformed = true,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        if self.malformed { None } else { self.status }
    }

    /// Trailers: fields without a status.
    pub(crate) fn is_trailers(&self) -> bool {
        !self.malformed && self.status.is_none()
    }
}

fn parse_status(value: &[u8]) -> Option<u16> {
    match value {
        [first @ b'1'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9'] => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Some(digit(first) * 100 + digit(second) * 10 + digit(third))
        }
        _ => None,
    }
}

fn check_regular(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let is_hop_by_hop = matches!(name, b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade");
    if !is_name(name) || !is_value(value) || is_hop_by_hop || (name == b"te" && value != b"trailers") {
        return Err(Malformed::Field);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: (&str, &str) = (":method", "CONNECT");
    const AUTHORITY: (&str, &str) = (":authority", "10.0.0.1:80");

    fn malformed(fields: &[(&str, &str)]) -> Option<Malformed> {
        let mut request = RequestFields::default();
        for (name, value) in fields {
            request.push(name.as_bytes(), value.as_bytes());
        }
        request.finish().2
    }

    #[test]
    fn a_connect_request() {
        let mut request = RequestFields::default();
        for (name, value) in [CONNECT, AUTHORITY, ("host", "10.0.0.1:80"), ("te", "trailers"), ("baggage", "k=v")] {
            request.push(name.as_bytes(), value.as_bytes());
        }
        let (authority, headers, malformed) = request.finish();
        assert_eq!((authority.as_str(), malformed), ("10.0.0.1:80", None));
        assert_eq!(headers.get("baggage"), Some(&b"k=v"[..]));
        assert_eq!(headers.iter().count(), 3);
    }

    #[test]
    fn what_makes_a_request_malformed() {
        let cases: [(&[(&str, &str)], Malformed); 21] = [
            (&[], Malformed::Method),
            (&[AUTHORITY], Malformed::Method),
            (&[(":method", "GET"), AUTHORITY], Malformed::Method),
            (&[(":method", "connect"), AUTHORITY], Malformed::Method),
            (&[CONNECT], Malformed::Authority),
            (&[CONNECT, (":authority", "")], Malformed::Authority),
            (&[CONNECT, (":authority", "10.0.0.1 :80")], Malformed::Authority),
            (&[CONNECT, (":authority", "10.0.0.1:80\0")], Malformed::Authority),
            (&[CONNECT, (":authority", "h\u{f6}st:80")], Malformed::Authority),
            (&[CONNECT, AUTHORITY, ("host", "10.0.0.2:80")], Malformed::Authority),
            (&[CONNECT, AUTHORITY, ("host", "10.0.0.1:80"), ("host", "evil")], Malformed::Authority),
            (&[CONNECT, AUTHORITY, (":scheme", "https")], Malformed::Scheme),
            (&[CONNECT, AUTHORITY, (":path", "/")], Malformed::Path),
            (&[CONNECT, AUTHORITY, (":protocol", "websocket")], Malformed::Protocol),
            (&[CONNECT, AUTHORITY, (":status", "200")], Malformed::PseudoHeader),
            (&[CONNECT, CONNECT, AUTHORITY], Malformed::PseudoHeader),
            (&[CONNECT, AUTHORITY, (":authority", "10.0.0.2:80")], Malformed::PseudoHeader),
            (&[CONNECT, ("a", "b"), AUTHORITY], Malformed::PseudoHeader),
            (&[CONNECT, AUTHORITY, ("Upper", "x")], Malformed::Field),
            (&[CONNECT, AUTHORITY, ("transfer-encoding", "chunked")], Malformed::Field),
            (&[CONNECT, AUTHORITY, ("x", "a\r\nb")], Malformed::Field),
        ];
        for (fields, reason) in cases {
            assert_eq!(malformed(fields), Some(reason), "{fields:?}");
        }
    }

    #[test]
    fn statuses() {
        let status = |fields: &[(&str, &str)]| {
            let mut response = ResponseFields::default();
            for (name, value) in fields {
                response.push(name.as_bytes(), value.as_bytes());
            }
            response.status()
        };
        assert_eq!(status(&[(":status", "200"), ("server", "x")]), Some(200));
        assert_eq!(status(&[(":status", "503")]), Some(503));
        let bad: [&[(&str, &str)]; 8] = [
            &[],
            &[(":status", "2000")],
            &[(":status", "+20")],
            &[(":status", "099")],
            &[(":status", "600")],
            &[(":status", "200"), (":status", "200")],
            &[("server", "x"), (":status", "200")],
            &[(":status", "200"), (":path", "/")],
        ];
        for fields in bad {
            assert_eq!(status(fields), None, "{fields:?}");
        }
    }
}
