//! The Huffman code of HPACK (RFC 7541, appendix B), decoded canonically.
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols. Its lengths are therefore the whole table.

use super::HpackError;

const EOS: usize = 256;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// Length of each symbol's code in bits; the last is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

struct Code {
    /// Of each length: its first code.
    first: [u32; LONGEST + 1],
    /// Of each length: how many codes it has.
    count: [u32; LONGEST + 1],
    /// Of each length: where its symbols start in `symbols`.
    offset: [u16; LONGEST + 1],
    symbols: [u16; 257],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code { first: [0; LONGEST + 1], count: [0; LONGEST + 1], offset: [0; LONGEST + 1], symbols: [0; 257] };
    let (mut length, mut next, mut filled) = (1, 0u32, 0);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.offset[length] = filled as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[filled] = symbol as u16;
                filled += 1;
                next += 1;
                code.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// Append the decoded bytes of `encoded` to `out`, `room` bytes at most: the bound holds while decoding, not after.
pub(super) fn decode(encoded: &[u8], room: usize, out: &mut Vec<u8>) -> Result<(), HpackError> {
    let end = out.len() + room;
    let (mut bits, mut available) = (0u64, 0usize);
    for &byte in encoded {
        bits = bits << 8 | u64::from(byte);
        available += 8;
        while let Some((symbol, length)) = first_symbol(bits, available) {
            if symbol == EOS {
                return Err(HpackError::Huffman);
            }
            if out.len() == end {
                return Err(HpackError::TooLarge);
            }
            out.push(symbol as u8);
            available -= length;
        }
    }
    // What is left must be the start of EOS (all ones) and shorter than a byte.
    let padding = bits & ((1 << available) - 1);
    if available >= 8 || padding != (1 << available) - 1 {
        return Err(HpackError::Huffman);
    }
    Ok(())
}

/// The symbol at the head of the lowest `available` bits, and its length; `None` when they are the start of a longer code.
fn first_symbol(bits: u64, available: usize) -> Option<(usize, usize)> {
    for length in SHORTEST..=available.min(LONGEST) {
        let code = (bits >> (available - length)) as u32 & ((1 << length) - 1);
        let rank = code.wrapping_sub(CODE.first[length]);
        if rank < CODE.count[length] {
            return Some((CODE.symbols[CODE.offset[length] as usize + rank as usize] as usize, length));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut out, mut bits, mut count) = (Vec::new(), 0u64, 0);
        for &byte in text {
            let length = LENGTHS[byte as usize] as usize;
            let rank = (0..byte as usize).filter(|&other| LENGTHS[other] as usize == length).count() as u32;
            bits = bits << length | u64::from(CODE.first[length] + rank);
            count += length;
            while count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        if count > 0 {
            out.push((bits << (8 - count)) as u8 | ((1u16 << (8 - count)) - 1) as u8);
        }
        out
    }

    fn decoded(encoded: &[u8], room: usize) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(encoded, room, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_complete() {
        // Kraft's equality: every string of bits starts with exactly one code.
        let sum: u64 = LENGTHS.iter().map(|&length| 1 << (LONGEST - length as usize)).sum();
        assert_eq!(sum, 1 << LONGEST);
        assert_eq!(CODE.first[30] + CODE.count[30], 1 << 30, "EOS is all ones");
    }

    #[test]
    fn vectors_of_the_standard() {
        let host = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&host, 99).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], 99).unwrap(), b"no-cache");
        assert_eq!(
            decoded(&[0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3], 99).unwrap(),
            b"https://www.example.com"
        );
    }

    #[test]
    fn every_byte_there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all), 256).unwrap(), all);
        for byte in all {
            assert_eq!(decoded(&encode(&[byte]), 1).unwrap(), [byte]);
        }
    }

    #[test]
    fn bad_padding_and_eos_are_errors() {
        assert_eq!(decoded(&[0xff], 9), Err(HpackError::Huffman), "eight bits of padding");
        assert_eq!(decoded(&[0x00], 9), Err(HpackError::Huffman), "padding of zeros");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff], 9), Err(HpackError::Huffman), "EOS itself");
    }

    #[test]
    fn room_bounds_the_output() {
        let encoded = encode(&[b'0'; 100]);
        assert_eq!(decoded(&encoded, 100).unwrap().len(), 100);
        assert_eq!(decoded(&encoded, 99), Err(HpackError::TooLarge));
    }
}
