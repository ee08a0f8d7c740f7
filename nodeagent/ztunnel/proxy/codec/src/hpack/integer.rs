//! Integers with a prefix (RFC 7541, section 5.1).

use super::HpackError;

/// Read an integer whose first byte holds `prefix_bits` of it.
pub(super) fn decode(input: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    let mask = (1u8 << prefix_bits) - 1;
    let mut value = u64::from(take(input)? & mask);
    if value < u64::from(mask) {
        return Ok(value as usize);
    }
    // Four more bytes reach 2^28, which is far above every length, index and table size allowed here; more is an attack.
    for shift in [0, 7, 14, 21] {
        let byte = take(input)?;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value as usize);
        }
    }
    Err(HpackError::Integer)
}

/// Append `value` behind the `flags` of its first byte.
pub(super) fn encode(value: usize, prefix_bits: u32, flags: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn take(input: &mut &[u8]) -> Result<u8, HpackError> {
    let (&first, rest) = input.split_first().ok_or(HpackError::Truncated)?;
    *input = rest;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_the_standard() {
        for (value, prefix, bytes) in [(10, 5, vec![10]), (1337, 5, vec![31, 154, 10]), (42, 7, vec![42]), (127, 7, vec![127, 0])] {
            let mut out = Vec::new();
            encode(value, prefix, 0, &mut out);
            assert_eq!(out, bytes);
            let mut input = &out[..];
            assert_eq!(decode(&mut input, prefix), Ok(value));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn too_long_or_cut_off() {
        assert_eq!(decode(&mut &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00][..], 7), Err(HpackError::Integer));
        assert_eq!(decode(&mut &[0x7f, 0x80][..], 7), Err(HpackError::Truncated));
        assert_eq!(decode(&mut &[][..], 7), Err(HpackError::Truncated));
    }
}
