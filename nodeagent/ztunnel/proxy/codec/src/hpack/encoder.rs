//! Encoding without state: static names and literals that are never indexed, so that blocks can be built ahead and shared.

use super::{integer, static_table};

/// A dynamic table size update to zero. It opens the first block of a connection, so that a peer that shrinks its table
/// (and then waits for this, as RFC 7541, section 4.2, lets it) never has a reason to.
pub(crate) const NO_TABLE: u8 = 0x20;

/// `:method: CONNECT` and the authority.
pub(crate) fn connect(authority: &str, out: &mut Vec<u8>) {
    integer::encode(static_table::METHOD, 4, 0, out);
    string(b"CONNECT", out);
    integer::encode(static_table::AUTHORITY, 4, 0, out);
    string(authority.as_bytes(), out);
}

/// `:status`.
pub(crate) fn status(status: u16, out: &mut Vec<u8>) {
    let known = match status {
        200 => Some(8),
        204 => Some(9),
        400 => Some(12),
        404 => Some(13),
        500 => Some(14),
        _ => None,
    };
    if let Some(index) = known {
        integer::encode(index, 7, 0x80, out);
        return;
    }
    integer::encode(static_table::STATUS, 4, 0, out);
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    string(&digits, out);
}

/// A literal field without indexing, with a literal name.
pub(crate) fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0);
    string(name.as_bytes(), out);
    string(value.as_bytes(), out);
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    integer::encode(bytes.len(), 7, 0, out);
    out.extend_from_slice(bytes);
}
