//! Decoding of header blocks, with every bound kept while decoding.

use std::collections::VecDeque;

use super::{HpackError, huffman, integer, static_table};

/// What RFC 9113 lets a peer use until it has acknowledged our SETTINGS.
const DEFAULT_TABLE_BYTES: usize = 4096;
/// What RFC 7541 (section 4.1) adds to each field's size.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// The decoding side's state: the dynamic table.
///
/// We announce a table of zero bytes: tunnels have few, short headers, and 10,000 idle connections should not keep 4 KiB each.
/// Until the peer acknowledges that, it may use the default, so the table exists all the same.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    size_bytes: usize,
    /// What the peer's encoder uses at most, as it said last.
    max_bytes: usize,
    /// What it may use at most.
    limit_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    name_bytes: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), size_bytes: 0, max_bytes: DEFAULT_TABLE_BYTES, limit_bytes: DEFAULT_TABLE_BYTES }
    }

    /// The peer acknowledged a table of zero bytes.
    pub(crate) fn disable_table(&mut self) {
        self.limit_bytes = 0;
        self.resize(0);
        self.entries = VecDeque::new();
    }

    /// Bytes held by the dynamic table, with the overhead that the standard assumes for an entry.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Decode a whole block, giving each field to `sink`; the list may be `list_limit_bytes` long, counted as RFC 9113 (6.5.2) does.
    pub(crate) fn decode(&mut self, block: &[u8], list_limit_bytes: usize, mut sink: impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        let mut input = block;
        let mut room = list_limit_bytes;
        let mut updates_left = 2;
        let mut scratch = Vec::new();
        while let Some(&first) = input.first() {
            if first & 0xe0 == 0x20 {
                if updates_left == 0 {
                    return Err(HpackError::SizeUpdate);
                }
                updates_left -= 1;
                self.update_size(&mut input)?;
                continue;
            }
            updates_left = 0;
            room = room.checked_sub(FIELD_OVERHEAD_BYTES).ok_or(HpackError::TooLarge)?;
            let used = if first & 0x80 == 0x80 {
                let (name, value) = self.get(integer::decode(&mut input, 7)?)?;
                if name.len() + value.len() > room {
                    return Err(HpackError::TooLarge);
                }
                sink(name, value);
                name.len() + value.len()
            } else {
                let name_bytes = self.literal(&mut input, room, &mut scratch)?;
                let (name, value) = scratch.split_at(name_bytes);
                sink(name, value);
                if first & 0xc0 == 0x40 {
                    self.insert(&scratch, name_bytes);
                }
                scratch.len()
            };
            room -= used;
        }
        Ok(())
    }

    /// Read a literal field into `scratch` (name, then value) and return the length of its name.
    fn literal(&self, input: &mut &[u8], room: usize, scratch: &mut Vec<u8>) -> Result<usize, HpackError> {
        scratch.clear();
        let prefix_bits = if input.first().is_some_and(|first| first & 0x40 != 0) { 6 } else { 4 };
        match integer::decode(input, prefix_bits)? {
            0 => string(input, room, scratch)?,
            index => {
                let (name, _) = self.get(index)?;
                if name.len() > room {
                    return Err(HpackError::TooLarge);
                }
                scratch.extend_from_slice(name);
            }
        }
        let name_bytes = scratch.len();
        string(input, room - name_bytes, scratch)?;
        Ok(name_bytes)
    }

    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        if let Some(field) = static_table::get(index) {
            return Ok(field);
        }
        let dynamic = index.checked_sub(static_table::FIRST_DYNAMIC).ok_or(HpackError::Index)?;
        let entry = self.entries.get(dynamic).ok_or(HpackError::Index)?;
        Ok(entry.bytes.split_at(entry.name_bytes))
    }

    fn update_size(&mut self, input: &mut &[u8]) -> Result<(), HpackError> {
        let bytes = integer::decode(input, 5)?;
        if bytes > self.limit_bytes {
            return Err(HpackError::SizeUpdate);
        }
        self.resize(bytes);
        Ok(())
    }

    fn resize(&mut self, bytes: usize) {
        self.max_bytes = bytes;
        self.evict(0);
    }

    fn insert(&mut self, field: &[u8], name_bytes: usize) {
        let size = field.len() + FIELD_OVERHEAD_BYTES;
        self.evict(size);
        // A field larger than the table empties it and is not kept (RFC 7541, section 4.4).
        if size <= self.max_bytes {
            self.size_bytes += size;
            self.entries.push_front(Entry { bytes: field.into(), name_bytes });
        }
    }

    /// Drop the oldest entries until `wanted_bytes` more would fit, or none is left.
    fn evict(&mut self, wanted_bytes: usize) {
        while self.size_bytes + wanted_bytes > self.max_bytes {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size_bytes -= oldest.bytes.len() + FIELD_OVERHEAD_BYTES;
        }
    }
}

fn string(input: &mut &[u8], room: usize, out: &mut Vec<u8>) -> Result<(), HpackError> {
    let is_huffman = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer::decode(input, 7)?;
    let (encoded, rest) = input.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *input = rest;
    if is_huffman {
        return huffman::decode(encoded, room, out);
    }
    if length > room {
        return Err(HpackError::TooLarge);
    }
    out.extend_from_slice(encoded);
    Ok(())
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
