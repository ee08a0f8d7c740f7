use super::*;

type List = Vec<(String, String)>;

fn decode(decoder: &mut Decoder, block: &[u8], limit: usize) -> Result<List, HpackError> {
    let mut list = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    decoder.decode(block, limit, |name, value| list.push((text(name), text(value))))?;
    Ok(list)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn list(fields: &[(&str, &str)]) -> List {
    fields.iter().map(|&(name, value)| (name.into(), value.into())).collect()
}

/// RFC 7541, C.3 (plain) and C.4 (Huffman): three requests, one table.
#[test]
fn requests_of_the_standard() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let expected = [
        list(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]),
        list(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"), ("cache-control", "no-cache")]),
        list(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ]),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        for ((block, fields), size) in blocks.iter().zip(&expected).zip([57, 110, 164]) {
            assert_eq!(&decode(&mut decoder, &bytes(block), 9999).unwrap(), fields);
            assert_eq!(decoder.size_bytes(), size);
        }
    }
}

/// RFC 7541, C.6: responses with a table of 256 bytes, which evicts.
#[test]
fn responses_of_the_standard_evict() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, &[0x3f, 0xe1, 0x01], 0).unwrap();
    let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let expected =
        |status| list(&[(":status", status), ("cache-control", "private"), ("date", date), ("location", "https://www.example.com")]);
    assert_eq!(decode(&mut decoder, &bytes(first), 9999).unwrap(), expected("302"));
    assert_eq!(decoder.size_bytes(), 222);
    assert_eq!(decode(&mut decoder, &bytes("4883 640e ffc1 c0bf"), 9999).unwrap(), expected("307"));
    assert_eq!(decoder.size_bytes(), 222, "the oldest went");
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
    let fields = decode(&mut decoder, &bytes(third), 9999).unwrap();
    assert_eq!(fields[5], ("set-cookie".into(), "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1".into()));
    assert_eq!(decoder.size_bytes(), 215);
}

#[test]
fn size_updates_are_bounded_and_lead() {
    let mut decoder = Decoder::new();
    assert_eq!(decode(&mut decoder, &bytes("3fe21f"), 9999), Err(HpackError::SizeUpdate), "4097");
    assert_eq!(decode(&mut decoder, &bytes("202020"), 9999), Err(HpackError::SizeUpdate), "three");
    assert_eq!(decode(&mut decoder, &bytes("8820"), 9999), Err(HpackError::SizeUpdate), "behind a field");
    assert_eq!(decode(&mut decoder, &bytes("203fe11f88"), 9999).unwrap().len(), 1, "down and up to 4096");
}

#[test]
fn a_disabled_table_keeps_nothing() {
    let mut decoder = Decoder::new();
    let indexed = bytes("400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65");
    decode(&mut decoder, &indexed, 9999).unwrap();
    assert_eq!(decode(&mut decoder, &[0xbe], 9999).unwrap().len(), 1);
    decoder.disable_table();
    assert_eq!(decoder.size_bytes(), 0);
    assert_eq!(decode(&mut decoder, &[0xbe], 9999), Err(HpackError::Index));
    assert_eq!(decode(&mut decoder, &indexed, 9999).unwrap().len(), 1, "still a valid field");
    assert_eq!(decoder.size_bytes(), 0);
    assert_eq!(decode(&mut decoder, &[0x21], 9999), Err(HpackError::SizeUpdate));
}

#[test]
fn a_bomb_of_references_is_stopped_while_decoding() {
    let mut decoder = Decoder::new();
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e]; // a value of 4,000 bytes, indexed
    block.resize(block.len() + 4000, b'x');
    block.resize(block.len() + 10_000, 0xbe); // and 10,000 references to it: 40 MB
    let mut seen = 0;
    let result = decoder.decode(&block, 16_384, |name, value| seen += name.len() + value.len());
    assert_eq!(result, Err(HpackError::TooLarge));
    assert!(seen <= 16_384);
}

#[test]
fn empty_fields_count_too() {
    let mut decoder = Decoder::new();
    let block = [0x81; 600]; // `:authority` with no value
    assert_eq!(decode(&mut decoder, &block, 16_384), Err(HpackError::TooLarge));
}

#[test]
fn cut_off_anywhere_is_an_error() {
    let block = bytes("400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65");
    for length in 1..block.len() {
        assert_eq!(decode(&mut Decoder::new(), &block[..length], 9999), Err(HpackError::Truncated), "{length}");
    }
}

#[test]
fn indexes_behind_the_end() {
    for block in ["80", "be", "7e0161", "0f2f0161"] {
        assert_eq!(decode(&mut Decoder::new(), &bytes(block), 9999), Err(HpackError::Index), "{block}");
    }
}
