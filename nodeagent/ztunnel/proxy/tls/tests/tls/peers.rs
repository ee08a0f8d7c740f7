//! Who is let in and who is not: every certificate a peer might show, once as the client and once as the server.

use std::net::{IpAddr, Ipv4Addr};

use hbone_tls::{Class, Engine, Stage, State};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, OtherNameValue, SanType,
};

use crate::pki::{Issued, Mesh, NOW_S, at, authority, id, store, svid, uri, uri_name};
use crate::wire::{Judged, judge, rustls_client, rustls_server};

/// Shows `chain`, signed with the key of `key`, to an engine that accepts.
fn as_client(mesh: &Mesh, chain: &[&Issued], key: &Issued) -> Judged {
    let engine = Engine::server(&mesh.server("web")).unwrap();
    judge(engine, Vec::new(), rustls_client(Some((chain, key)), |_| {}))
}

/// Shows it to an engine that dialled, and that would take anyone whom these tests name.
fn as_server(mesh: &Mesh, chain: &[&Issued], key: &Issued) -> Judged {
    let mut out = Vec::new();
    let engine = Engine::client(&mesh.dial("web", &["peer", "other"]), &mut out).unwrap();
    judge(engine, out, rustls_server(chain, key, |_| {}))
}

/// Both roles refuse the chain, for that reason, and deliver nothing.
fn refused(mesh: &Mesh, chain: &[&Issued], reason: &str) {
    for (role, judged) in [("client", as_client(mesh, chain, chain[0])), ("server", as_server(mesh, chain, chain[0]))] {
        assert!(judged.reason().contains(reason), "as {role}: {:?}, expected {reason:?}", judged.reason());
        assert_eq!(judged.result.as_ref().unwrap_err().class, Class::PeerCertificate, "as {role}");
        assert_eq!(judged.result.as_ref().unwrap_err().stage, Stage::Handshake, "as {role}");
        assert!(judged.delivered.is_empty() && judged.engine.peer().is_none(), "as {role}");
        assert!(judged.peer.is_err(), "as {role}: the peer was not told");
    }
}

fn accepted(mesh: &Mesh, chain: &[&Issued]) {
    for (role, judged) in [("client", as_client(mesh, chain, chain[0])), ("server", as_server(mesh, chain, chain[0]))] {
        assert_eq!(judged.result, Ok(State::Ready), "as {role}: {}", judged.reason());
        assert_eq!(judged.delivered, b"hello", "as {role}");
        assert_eq!(judged.engine.peer().unwrap().identity(), &id("peer"), "as {role}");
    }
}

fn peer_with(mesh: &Mesh, edit: impl FnOnce(&mut CertificateParams)) -> Issued {
    let mut params = svid(&uri("peer"));
    edit(&mut params);
    mesh.root.issue(params)
}

fn refused_with(reason: &str, edit: impl FnOnce(&mut CertificateParams)) {
    let mesh = Mesh::new();
    refused(&mesh, &[&peer_with(&mesh, edit)], reason);
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).unwrap()
}

#[test]
fn a_workload_of_the_mesh_is_let_in() {
    let mesh = Mesh::new();
    accepted(&mesh, &[&peer_with(&mesh, |_| {})]);
}

#[test]
fn so_is_one_behind_an_intermediate_and_one_without_extended_key_usage() {
    let mesh = Mesh::new();
    let intermediate = mesh.root.issue(authority("intermediate"));
    accepted(&mesh, &[&intermediate.issue(svid(&uri("peer"))), &intermediate]);
    accepted(&mesh, &[&peer_with(&mesh, |params| params.extended_key_usages.clear())]);
    accepted(&mesh, &[&peer_with(&mesh, |params| params.is_ca = IsCa::NoCa)]);
}

#[test]
fn more_than_one_name_is_refused() {
    let more = [
        uri_name(&uri("other")),
        uri_name(&uri("peer")),
        uri_name("https://example.com"),
        SanType::DnsName(ia5("web.default.svc")),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::Rfc822Name(ia5("root@example.com")),
        SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], OtherNameValue::Utf8String("root".into()))),
    ];
    for name in more {
        refused_with("not exactly one name", |params| params.subject_alt_names.push(name.clone()));
        refused_with("not exactly one name", |params| params.subject_alt_names.insert(0, name));
    }
}

#[test]
fn no_name_or_another_kind_of_name_is_refused() {
    let others = [None, Some(SanType::DnsName(ia5(&uri("peer")))), Some(SanType::Rfc822Name(ia5("peer@cluster.local")))];
    for name in others {
        refused_with("not exactly one name", |params| params.subject_alt_names = name.into_iter().collect());
    }
}

#[test]
fn a_uri_that_is_no_workload_is_refused() {
    let no_workloads = [
        "spiffe://cluster.local/ns/default/sa/peer\0",
        "spiffe://cluster.local\0.evil/ns/default/sa/peer",
        "spiffe://Cluster.local/ns/default/sa/peer",
        "spiffe://cluster.local/ns/default/sa/peer/",
        "spiffe://cluster.local/ns/%64efault/sa/peer",
        "spiffe://cluster.local/ns/../sa/peer",
        "spiffe://cluster.local/nodemesh/node/n1",
        "spiffe://cluster.local",
        "https://cluster.local/ns/default/sa/peer",
        "",
    ];
    for no_workload in no_workloads {
        refused_with("the peer's certificate: ", |params| params.subject_alt_names = vec![uri_name(no_workload)]);
    }
}

#[test]
fn an_authority_never_authenticates() {
    let mesh = Mesh::new();
    let with_usages = |usages: Vec<KeyUsagePurpose>| {
        peer_with(&mesh, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = usages;
        })
    };
    refused(&mesh, &[&with_usages(vec![KeyUsagePurpose::DigitalSignature])], "one of an authority");
    refused(&mesh, &[&with_usages(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign])], "one of an authority");
    refused(&mesh, &[&mesh.root], "one of an authority");
}

#[test]
fn a_leaf_that_signs_a_leaf_is_refused() {
    let mesh = Mesh::new();
    let leaf = peer_with(&mesh, |_| {});
    refused(&mesh, &[&leaf.issue(svid(&uri("peer"))), &leaf], "may not sign");
    let would_sign = peer_with(&mesh, |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    refused(&mesh, &[&would_sign.issue(svid(&uri("peer"))), &would_sign], "may not sign");
}

#[test]
fn an_intermediate_whose_key_usage_is_not_signing_is_refused() {
    let mesh = Mesh::new();
    let mut params = authority("intermediate");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let intermediate = mesh.root.issue(params);
    refused(&mesh, &[&intermediate.issue(svid(&uri("peer"))), &intermediate], "may not sign");
}

#[test]
fn key_usage_must_be_for_signatures_and_not_for_certificates() {
    use KeyUsagePurpose::{ContentCommitment, CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    let wrong = [
        vec![],
        vec![KeyEncipherment],
        vec![KeyAgreement, ContentCommitment],
        vec![DigitalSignature, KeyCertSign],
        vec![DigitalSignature, CrlSign],
    ];
    for usages in wrong {
        refused_with("key usage", |params| params.key_usages = usages);
    }
}

#[test]
fn extended_key_usage_must_fit_the_side() {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let mesh = Mesh::new();
    let only = |usage| peer_with(&mesh, |params| params.extended_key_usages = vec![usage]);
    let (for_client, for_server, for_code) = (only(ClientAuth), only(ServerAuth), only(CodeSigning));
    assert_eq!(as_client(&mesh, &[&for_client], &for_client).result, Ok(State::Ready));
    assert_eq!(as_server(&mesh, &[&for_server], &for_server).result, Ok(State::Ready));
    assert!(as_client(&mesh, &[&for_server], &for_server).result.is_err());
    assert!(as_server(&mesh, &[&for_client], &for_client).result.is_err());
    refused(&mesh, &[&for_code], "extended key usage");
}

#[test]
fn what_is_not_valid_now_is_refused() {
    refused_with("not valid for another 1 s", |params| params.not_before = at(NOW_S + 1));
    refused_with("expired", |params| params.not_after = at(NOW_S - 1));
    let mesh = Mesh::new();
    let edges = peer_with(&mesh, |params| (params.not_before, params.not_after) = (at(NOW_S), at(NOW_S)));
    accepted(&mesh, &[&edges]);
    let mut params = authority("intermediate");
    params.not_after = at(NOW_S - 1);
    let intermediate = mesh.root.issue(params);
    refused(&mesh, &[&intermediate.issue(svid(&uri("peer"))), &intermediate], "expired");
}

#[test]
fn a_root_that_has_expired_carries_nothing() {
    let mut params = authority("root of cluster.local");
    params.not_after = at(NOW_S - 1);
    let mesh = Mesh::new();
    let expired = Issued::root(params);
    mesh.trust.replace(store(&expired));
    refused(&mesh, &[&expired.issue(svid(&uri("peer")))], "no valid root");
}

#[test]
fn another_trust_domain_under_the_same_root_is_refused() {
    refused_with("no roots for the trust domain", |params| {
        params.subject_alt_names = vec![uri_name("spiffe://other.example/ns/default/sa/peer")];
    });
}

#[test]
fn the_right_trust_domain_under_another_root_is_refused() {
    let mesh = Mesh::new();
    let other = Issued::root(authority("root of other.example"));
    let same_name = Issued::root(authority("root of cluster.local"));
    let both = hbone_tls::TrustStore::new([("cluster.local", &mesh.root.pem), ("other.example", &other.pem)], []).0;
    mesh.trust.replace(both);
    refused(&mesh, &[&other.issue(svid(&uri("peer")))], "no valid root");
    refused(&mesh, &[&other.issue(svid(&uri("peer"))), &other], "no valid root");
    refused(&mesh, &[&same_name.issue(svid(&uri("peer")))], "signature in its chain");
    let stranger = mesh.root.issue(svid("spiffe://other.example/ns/default/sa/peer"));
    refused(&mesh, &[&stranger], "no valid root");
}

#[test]
fn a_critical_extension_that_is_not_understood_is_refused_and_another_is_not() {
    let extension = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    refused_with("critical extension", |params| params.custom_extensions.push(extension(true)));
    let mesh = Mesh::new();
    accepted(&mesh, &[&peer_with(&mesh, |params| params.custom_extensions.push(extension(false)))]);
}

#[test]
fn an_extension_that_comes_twice_is_refused() {
    // GeneralNames of one URI.
    let name = uri("other");
    let mut names = vec![0x30, name.len() as u8 + 2, 0x86, name.len() as u8];
    names.extend_from_slice(name.as_bytes());
    refused_with("canonical", |params| params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names)));
}

#[test]
fn a_changed_certificate_is_refused() {
    let mesh = Mesh::new();
    let mut peer = peer_with(&mesh, |_| {});
    let mut der = peer.der.to_vec();
    let position = der.windows(4).position(|bytes| bytes == b"peer").unwrap();
    der[position..position + 4].copy_from_slice(b"pees");
    peer.der = der.into();
    refused(&mesh, &[&peer], "signature in its chain");
}

#[test]
fn the_same_certificate_in_another_encoding_is_refused() {
    let mesh = Mesh::new();
    let mut peer = peer_with(&mesh, |_| {});
    let der = peer.der.to_vec();
    // The signature, which nothing signs, with its length in the long form.
    let signature = (0..der.len() - 1).rfind(|&at| der[at] == 3 && at + 2 + usize::from(der[at + 1]) == der.len()).unwrap();
    let mut longer = [&der[..=signature], &[0x81], &der[signature + 1..]].concat();
    let len = (longer.len() - 4) as u16;
    longer[2..4].copy_from_slice(&len.to_be_bytes());
    peer.der = longer.into();
    refused(&mesh, &[&peer], "canonical");
    peer.der = [&der[..], &[0]].concat().into();
    refused(&mesh, &[&peer], "canonical");
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let mesh = Mesh::new();
    let (peer, thief) = (peer_with(&mesh, |_| {}), peer_with(&mesh, |_| {}));
    for judged in [as_client(&mesh, &[&peer], &thief), as_server(&mesh, &[&peer], &thief)] {
        assert!(judged.result.is_err() && judged.delivered.is_empty() && judged.engine.peer().is_none(), "{}", judged.reason());
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let engine = Engine::server(&Mesh::new().server("web")).unwrap();
    let judged = judge(engine, Vec::new(), rustls_client(None, |_| {}));
    assert_eq!(judged.result.as_ref().unwrap_err().class, Class::PeerCertificate, "{}", judged.reason());
    assert!(judged.delivered.is_empty());
}

#[test]
fn only_the_server_that_was_dialled_is_accepted() {
    let mesh = Mesh::new();
    let peer = peer_with(&mesh, |_| {});
    for (expected, accepts) in [(&["peer"][..], true), (&["other", "peer"], true), (&["other"], false), (&["peer2"], false), (&[], false)] {
        let mut out = Vec::new();
        let engine = Engine::client(&mesh.dial("web", expected), &mut out).unwrap();
        let judged = judge(engine, out, rustls_server(&[&peer], &peer, |_| {}));
        assert_eq!(judged.result.is_ok(), accepts, "{expected:?}: {}", judged.reason());
        assert!(accepts || judged.reason().contains("expected was one of"), "{}", judged.reason());
    }
}
