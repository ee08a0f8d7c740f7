import msgspec
import pytest

from nodeagent.runtime.pods import Meta, Namespace, Pod, PodBook, PodIP, PodSpec, PodStatus, Standing, enrolled
from nodeagent.runtime.probe_ports import Container

MODE = "istio.io/dataplane-mode"


def pod(name: str = "web", uid: str = "u1", phase: str = "Running", *, labels: dict[str, str] | None = None, **spec: bool) -> Pod:
    return Pod(Meta(name, "shop", uid, labels or {}), PodSpec(**spec), PodStatus(phase))


def namespace(mode: str | None = "ambient", name: str = "shop") -> Namespace:
    return Namespace(Meta(name, labels={} if mode is None else {MODE: mode}))


def book(*pods: Pod, mode: str | None = "ambient", exempt: tuple[str, ...] = ()) -> PodBook:
    made = PodBook(exempt_namespaces=exempt)
    for one in pods:
        made.put_pod(one)
    made.put_namespace(namespace(mode))
    made.listed |= {Pod, Namespace}
    return made


def uids(one: PodBook) -> list[str]:
    return [pod.uid for pod in one.wanted()]


@pytest.mark.parametrize(
    ("own", "of_namespace", "wanted"),
    [
        (None, None, False),
        (None, "ambient", True),
        (None, "none", False),
        ("ambient", None, True),
        ("ambient", "none", True),
        ("none", "ambient", False),
        ("", "ambient", False),
        ("AMBIENT", None, False),
    ],
)
def test_the_pod_s_label_wins_over_the_namespace_s(own: str | None, of_namespace: str | None, *, wanted: bool) -> None:
    assert enrolled(pod(labels={} if own is None else {MODE: own}), of_namespace) is wanted


def test_who_is_never_captured() -> None:
    assert not enrolled(pod(host_network=True), "ambient")
    assert not enrolled(pod(labels={"networking.istio.io/tunnel": "x,http"}), "ambient")
    for annotation in ("sidecar.istio.io/status", "kubernetes.io/config.mirror"):
        assert not enrolled(Pod(Meta("web", "shop", "u1", {}, {annotation: "x"})), "ambient")


def test_the_api_server_s_words_are_read() -> None:
    text = (
        b'{"metadata":{"name":"a","namespace":"b","uid":"c","managedFields":[{"x":1}]},"spec":{"hostNetwork":true,"containers":[{}],'
        b'"serviceAccountName":"d"},"status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}]}}'
    )
    read = msgspec.json.decode(text, type=Pod)
    status = PodStatus("Running", "10.0.0.1", (PodIP("10.0.0.1"), PodIP("fd00::1")))
    assert read == Pod(Meta("a", "b", "c"), PodSpec(host_network=True, service_account_name="d", containers=(Container(),)), status)
    assert read.addresses == ("10.0.0.1", "fd00::1")


def test_labels_take_effect_at_once_both_ways() -> None:
    one = book(pod(), pod("own", "u2", labels={MODE: "ambient"}), mode=None)
    assert uids(one) == ["u2"]
    one.put_namespace(namespace("ambient"))
    assert uids(one) == ["u1", "u2"]
    one.put_pod(pod(labels={MODE: "none"}))
    assert uids(one) == ["u2"]
    one.put_pod(pod("own", "u2"))
    one.drop_namespace("shop")
    assert uids(one) == []


def test_who_ends_stays_captured_until_its_namespace_is_gone() -> None:
    one = book(pod(), pod("job", "u2"), pod("outside", "u3", labels={MODE: "none"}))
    one.drop_pod("shop", "web")
    one.put_pod(pod("job", "u2", "Succeeded"))
    one.drop_pod("shop", "outside")
    assert set(uids(one)) == {"u1", "u2"}
    one.keep_parting({"u2"})
    assert uids(one) == ["u2"]
    one.drop_pod("shop", "job")
    assert uids(one) == ["u2"], "that its object goes, too, is no news"
    one.keep_parting(())
    assert uids(one) == []


def test_a_pod_of_another_uid_takes_the_name_over() -> None:
    one = book(pod())
    one.put_pod(pod(uid="u9"))
    assert uids(one) == ["u9", "u1"], "the new one first: it is the one of that name"
    one.keep_parting(())
    assert uids(one) == ["u9"]


def test_standing() -> None:
    one = book(pod(), pod("host", "u2", host_network=True))
    assert one.standing("shop", "web", "u1") is Standing.INSIDE
    assert one.standing("shop", "host", "u2") is Standing.OUTSIDE
    for stranger in (("shop", "web", "u9"), ("shop", "other", "u1"), ("other", "web", "u1"), ("shop", "host", "u1")):
        assert one.standing(*stranger) is Standing.UNKNOWN
    one.drop_namespace("shop")
    assert one.standing("shop", "web", "u1") is Standing.UNKNOWN, "a namespace that is not known may be enrolled"
    assert PodBook().standing("shop", "web", "u1") is Standing.UNKNOWN


def test_nothing_is_known_before_both_lists_are_whole() -> None:
    one = PodBook()
    one.put_pod(pod(labels={MODE: "none"}))
    one.put_namespace(namespace())
    for kind in (Pod, Namespace):
        assert not one.synced
        assert one.standing("shop", "web", "u1") is Standing.UNKNOWN
        one.listed.add(kind)
    assert one.standing("shop", "web", "u1") is Standing.OUTSIDE


def test_exempt_namespaces_are_outside_whatever_their_labels_say() -> None:
    one = book(pod(labels={MODE: "ambient"}), exempt=("shop",))
    assert uids(one) == []
    assert one.standing("shop", "web", "u1") is Standing.OUTSIDE


def test_a_static_pod_is_known_by_the_kubelet_s_uid_and_lends_it_to_nobody() -> None:
    mirror = {"kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h"}
    one = book(Pod(Meta("static", "shop", "u1", {}, mirror)), Pod(Meta("thief", "shop", "u2", {}, {"kubernetes.io/config.hash": "u1"})))
    assert one.standing("shop", "static", "h") is Standing.OUTSIDE
    assert one.standing("shop", "thief", "u1") is Standing.UNKNOWN, "who only says that it is another pod is not"


def test_what_was_asked_ahead_of_the_watch_is_not_undone_by_it() -> None:
    def at(revision: str, mode: str) -> Namespace:
        return Namespace(Meta("shop", labels={MODE: mode}, resource_version=revision))

    one = book(pod(), mode=None)
    one.put_namespace(at("9", "none"))
    one.put_namespace(at("11", "ambient"))
    one.put_namespace(at("10", "none"))
    assert uids(one) == ["u1"], "the watch comes to that later"
    one.put_namespace(at("12", "none"))
    assert uids(one) == []
