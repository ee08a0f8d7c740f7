//! Header lists: decoded ones in one allocation, and encoded blocks that are built once and sent often.

use std::fmt;

use crate::hpack::encoder;

/// The decoded regular header fields of one message, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    bytes: Vec<u8>,
    ends: Vec<(u32, u32)>,
}

impl Headers {
    /// The value of the first field of that (lower-case) name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value)
    }

    /// All fields as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(_, end)| end));
        starts.zip(&self.ends).map(|(start, &(name_end, end))| {
            let (start, name_end, end) = (start as usize, name_end as usize, end as usize);
            (&self.bytes[start..name_end], &self.bytes[name_end..end])
        })
    }

    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let name_end = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.ends.push((name_end, self.bytes.len() as u32));
    }
}

/// A header name or value that may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderError;

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header name or value has bytes that are not allowed")
    }
}

impl std::error::Error for HeaderError {}

/// The encoded headers of a CONNECT request. Building needs no connection and the block may be used on any number of them,
/// so keep one for each destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderBlock {
    pub(crate) encoded: Vec<u8>,
    /// Size as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
    pub(crate) list_bytes: usize,
}

impl HeaderBlock {
    /// `CONNECT` to `authority`.
    ///
    /// # Errors
    /// The authority is empty or not visible ASCII.
    pub fn connect(authority: &str) -> Result<Self, HeaderError> {
        if !is_authority(authority.as_bytes()) {
            return Err(HeaderError);
        }
        let mut encoded = Vec::with_capacity(authority.len() + 16);
        encoder::connect(authority, &mut encoded);
        let list_bytes = field_bytes(":method", "CONNECT") + field_bytes(":authority", authority);
        Ok(Self { encoded, list_bytes })
    }

    /// Append a regular field: `name` in lower case.
    ///
    /// # Errors
    /// The name is not a lower-case token, or the value has control characters or outer blanks.
    pub fn field(mut self, name: &str, value: &str) -> Result<Self, HeaderError> {
        self.push(name, value)?;
        Ok(self)
    }

    pub(crate) fn push(&mut self, name: &str, value: &str) -> Result<(), HeaderError> {
        if !is_name(name.as_bytes()) || !is_value(value.as_bytes()) {
            return Err(HeaderError);
        }
        encoder::field(name, value, &mut self.encoded);
        self.list_bytes += field_bytes(name, value);
        Ok(())
    }
}

fn field_bytes(name: &str, value: &str) -> usize {
    name.len() + value.len() + 32
}

/// Visible ASCII, at least one character.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic)
}

/// A lower-case token (RFC 9110, section 5.6.2).
pub(crate) fn is_name(bytes: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_token)
}

/// No control characters but tab, no blank at either end (RFC 9113, section 8.2.1, and stricter).
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_allowed = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
    !is_blank(bytes.first()) && !is_blank(bytes.last()) && bytes.iter().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut headers = Headers::default();
        headers.push(b"a", b"1");
        headers.push(b"empty", b"");
        headers.push(b"a", b"2");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [(&b"a"[..], &b"1"[..]), (b"empty", b""), (b"a", b"2")]);
        assert_eq!(headers.get("a"), Some(&b"1"[..]));
        assert_eq!(headers.get("b"), None);
    }

    #[test]
    fn what_may_not_be_sent() {
        for authority in ["", "a b", "a\r\n", "\u{e9}", "a\0"] {
            assert_eq!(HeaderBlock::connect(authority), Err(HeaderError), "{authority:?}");
        }
        let block = HeaderBlock::connect("10.0.0.1:80").unwrap();
        for (name, value) in
            [("", "x"), ("Upper", "x"), (":path", "/"), ("a b", "x"), ("a", " x"), ("a", "x\t"), ("a", "x\ny"), ("a", "\0")]
        {
            assert_eq!(block.clone().field(name, value), Err(HeaderError), "{name:?}: {value:?}");
        }
        assert!(block.field("forwarded", "for=\"[2001:db8::1]:4711\"").is_ok());
    }
}
