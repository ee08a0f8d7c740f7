//! HPACK (RFC 7541): a decoder with bounds, and an encoder without state.

mod decoder;
pub(crate) mod encoder;
mod huffman;
mod integer;
mod static_table;

pub(crate) use decoder::Decoder;

/// Why a header block cannot be decoded. All of them end the connection: the tables of the two sides differ from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HpackError {
    /// The block ends inside a field.
    Truncated,
    /// An integer is larger than any that has a meaning.
    Integer,
    /// An index behind the end of the tables.
    Index,
    /// Huffman padding is wrong, or EOS is in the text.
    Huffman,
    /// A table size update behind a field, above the limit, or the third of its block.
    SizeUpdate,
    /// The decoded list is beyond its bound.
    TooLarge,
}

impl HpackError {
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::Truncated => "a header block ends inside a field",
            Self::Integer => "an integer in a header block is too large",
            Self::Index => "a header index is behind the end of the tables",
            Self::Huffman => "a Huffman string is malformed",
            Self::SizeUpdate => "a header table size update is not allowed",
            Self::TooLarge => "a header list is larger than allowed",
        }
    }
}
