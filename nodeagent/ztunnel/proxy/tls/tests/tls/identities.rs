//! Parsing of identities: the corpus that the Python side is held to as well.

use hbone_tls::Identity;
use proptest::prelude::*;

fn corpus() -> Vec<(bool, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../tests/corpus/spiffe.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let entry = |line: &str| {
        let (verdict, string) = line.split_once(' ').unwrap();
        let accept = match verdict {
            "accept" => true,
            "refuse" => false,
            other => panic!("{other}"),
        };
        (accept, serde_json::from_str(string).unwrap())
    };
    text.lines().map(entry).collect()
}

#[test]
fn the_corpus_is_judged_as_in_python() {
    let corpus = corpus();
    assert!(corpus.len() > 70);
    for (accept, text) in corpus {
        let parsed = Identity::parse(&text);
        assert_eq!(parsed.is_ok(), accept, "{text:?}");
        if let Ok(identity) = parsed {
            assert_eq!(identity.as_str(), text);
        }
    }
}

#[test]
fn the_parts_are_those_of_the_uri() {
    let identity = Identity::parse("spiffe://td.example/ns/shop/sa/cart").unwrap();
    assert_eq!((identity.trust_domain(), identity.namespace(), identity.service_account()), ("td.example", "shop", "cart"));
}

proptest! {
    #[test]
    fn parts_make_the_uri_and_the_uri_the_parts(td in "[a-z0-9._-]{1,255}", ns in "[A-Za-z0-9_-]{1,300}", sa in "[A-Za-z0-9_-]{1,300}") {
        let identity = Identity::parse(&format!("spiffe://{td}/ns/{ns}/sa/{sa}")).unwrap();
        prop_assert_eq!((identity.trust_domain(), identity.namespace(), identity.service_account()), (&*td, &*ns, &*sa));
    }

    #[test]
    fn any_text_is_judged(text in ".*") {
        for candidate in [text.clone(), format!("spiffe://{text}/ns/n/sa/s"), format!("spiffe://td/ns/{text}/sa/s")] {
            if let Ok(identity) = Identity::parse(&candidate) {
                prop_assert_eq!(identity.as_str(), &candidate);
            }
        }
    }
}
