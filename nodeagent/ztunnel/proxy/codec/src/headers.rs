//! Header lists: decoded ones in one allocation, and encoded blocks that are built once and sent often.

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
        let _ = authority;
        unimplemented!()
    }

    /// Append a regular field: `name` in lower case.
    ///
    /// # Errors
    /// The name is not a lower-case token, or the value has control characters or outer blanks.
    pub fn field(self, name: &str, value: &str) -> Result<Self, HeaderError> {
        let _ = (name, value);
        unimplemented!()
    }
}
