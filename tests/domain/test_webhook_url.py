"""Accepted and refused URLs, and the property that normalising twice changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
from bridge.domain.errors import InvalidInput
from bridge.domain.webhook_url import check_target, mask_query_secrets, parse_target

API = AddressPolicy(Trust.API)
CONFIG = AddressPolicy(Trust.CONFIG)
LOCAL = AddressPolicy(Trust.API, allow=(AllowRule.parse("127.0.0.0/8"),))
EVERYTHING = AddressPolicy(Trust.CONFIG, allow=(AllowRule.parse("0.0.0.0/0"), AllowRule.parse("::/0")), allow_http=True)

MALFORMED = [
    # spellings of addresses
    "http://127.1/", "http://127.0.1/", "http://2130706433/", "http://0/", "http://0x7f000001/", "http://0x7f.0.0.1/",
    "http://0X7F.1/", "http://0177.0.0.1/", "http://017700000001/", "http://00000000/", "http://0251.0376.0251.0376/",
    "http://2852039166/", "http://0xA9FEA9FE/", "http://1.2.3.4.5/", "http://256.1.1.1/", "http://8.8.8.8.8/",
    "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://１２７.0.0.1/", "http://127.0.0.1./", "http://0x/", "http://foo.0x7f/",
    "http://%31%32%37.0.0.1/", "http://exa%6dple.com/", "http://127.0.0.1%00.example.com/", "http://127.0.0.1%2e/",
    "http://[::1%25lo]/", "http://[fe80::1%eth0]/", "http://[2606:4700::1%25eth0]/", "http://[::1%lo]/",
    "http://[v1.x]/", "http://[::1]x/", "http://[::1", "http://::1/", "http://[]/", "http://[127.0.0.1]/", "http://[:::]/",
    # structure
    "http://example.com@127.0.0.1/", "http://user:secret@example.com/", "http://@example.com/", "http://a:@example.com/",
    "http://example.com#@127.0.0.1/", "http://example.com/#", "http://example.com/x#y",
    "http:///127.0.0.1/", "http:/127.0.0.1/", "http:127.0.0.1/", "//127.0.0.1/", "127.0.0.1", "example.com/x", "", "http://",
    "http://example.com\\@127.0.0.1/", "http:\\\\example.com/", "http://example.com/a\\b",
    # ports
    "http://example.com:0/", "http://example.com:65536/", "http://example.com:-1/", "http://example.com:８０/",
    "http://example.com:+80/", "http://example.com:8_0/", "http://example.com:80:90/", "http://example.com:a/",
    "http://example.com:999999999999/", "http://:80/",
    # characters
    "\thttp://example.com/", "http://\t127.0.0.1/", "http://127.0.0.1\r\nX: y/", "http://example.com/\r\nX-Inj: 1",
    "http://exam ple.com/", "http://example.com/a b", "http://example.com/\x00", "http://example.com/\x7f", " http://example.com",
    "http://example.com/\n", "http://example.com/\ud800",
    # schemes
    "gopher://example.com/", "file:///etc/passwd", "ftp://example.com/", "ws://example.com/", "javascript:alert(1)",
    "data:text/plain,x", "unix:///run/x.sock", "http+unix://x/", "httpss://example.com/", "://example.com/",
    # names
    "http://a..b/", "http://.example.com/", "http://./", "http://-a.example/", "http://a-.example/", "http://a$b.example/",
    "http://exa\u200dmple.com/", "http://ex\xadample.com/", f"http://{'a' * 64}.example/", f"http://{'a.' * 130}example/",
    "http://a,b/", "http://a;b/", "http://a*b/", "http://(a)/", "http://xn--a/",
    # length
    "https://example.com/" + "a" * 2029, "https://example.com/" + "é" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("url", MALFORMED)
def test_urls_that_parsers_read_differently_are_refused_to_everyone(url):
    with pytest.raises(InvalidInput) as caught:
        check_target(url, EVERYTHING)
    assert [problem.field for problem in caught.value.problems] == ["url"]


@pytest.mark.parametrize(
    ("url", "normal", "host", "port"),
    [
        ("https://example.com", "https://example.com", "example.com", 443),
        ("HTTPS://EXAMPLE.com/A?b=C", "https://example.com/A?b=C", "example.com", 443),
        ("hTTps://example.com:/", "https://example.com/", "example.com", 443),
        ("https://example.com:0443/", "https://example.com/", "example.com", 443),
        ("https://example.com:8443/x", "https://example.com:8443/x", "example.com", 8443),
        ("https://example.com./x", "https://example.com/x", "example.com", 443),
        ("https://bücher.example/ä?q=ü", "https://xn--bcher-kva.example/%C3%A4?q=%C3%BC", "xn--bcher-kva.example", 443),
        ("https://a_b.example/..;/%2e%2e/x", "https://a_b.example/..;/%2e%2e/x", "a_b.example", 443),
        ("https://example.com?sp=%2Ft", "https://example.com/?sp=%2Ft", "example.com", 443),
        ("https://8.8.8.8/x", "https://8.8.8.8/x", "8.8.8.8", 443),
        ("https://[2606:4700:0:0::1111]:8443/", "https://[2606:4700::1111]:8443/", "2606:4700::1111", 8443),
        ("https://[64:ff9b::8.8.8.8]/", "https://[64:ff9b::808:808]/", "64:ff9b::808:808", 443),
        ("https://example.com/" + "a" * 2028, "https://example.com/" + "a" * 2028, "example.com", 443),
        ("https://1e100.net/", "https://1e100.net/", "1e100.net", 443),
        ("https://3com/", "https://3com/", "3com", 443),
    ],
)
def test_good_urls_are_normalised(url, normal, host, port):
    target = check_target(url, API)
    assert (target.url, target.host, target.port) == (normal, host, port)


@pytest.mark.parametrize(
    "tail",
    [
        "/?sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=aB%2Bc%3D",
        "/a%2fb%2Fc/%7e~/%41/./..//x",
        "/?q=%20+%2B+&r=a=b&s&&t=?/:@!$'()*,;",
        "/%C3%A4%c3%a4?%E4",
        "/x?",
        "//x/",
        "?sp=%2Ft",
    ],
)
@pytest.mark.parametrize("start", ["https://example.com", "HTTPS://Bücher.example", "https://[2606:4700::1111]:8443"])
def test_path_and_query_are_kept_to_the_byte(start, tail):
    """Receivers sign or compare the URL as they gave it: `%2F` is no `/`, and `%2f` is no `%2F`."""
    sent = check_target(start + tail, API).url
    assert sent.endswith(tail)
    assert check_target(sent, API).url == sent


@pytest.mark.parametrize(
    ("tail", "sent"),
    [
        ("/ä?q=ü€", "/%C3%A4?q=%C3%BC%E2%82%AC"),
        ("/100%?a=%zz%4", "/100%25?a=%25zz%254"),
        ('/a"<>^`{|}[]', "/a%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
        ("?a[]=1", "/?a%5B%5D=1"),
    ],
)
def test_what_no_url_may_hold_is_encoded(tail, sent):
    assert check_target("https://example.com" + tail, API).url == "https://example.com" + sent


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://10.0.0.1:8443/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://0.0.0.0/",
        "https://[::ffff:7f00:1]/", "https://[fd00::1]/", "https://169.254.169.254/", "https://[64:ff9b::7f00:1]/",
        "https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://x.localhost/", "http://localhost:8080/",
        "https://metadata.google.internal/", "https://metadata/", "https://instance-data/", "https://METADATA.google.internal./",
        "http://8.8.8.8/", "http://example.com/", "https://8.8.8.8:25/", "https://example.com:22/",
    ],
)  # fmt: skip
def test_urls_that_can_only_be_refused_at_the_dial_are_refused_at_creation(url):
    with pytest.raises(InvalidInput, match=r"\[rule: "):
        check_target(url, API)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/hooks",
        "http://localhost:9000/",
        "http://app.localhost/",
        "http://[::ffff:127.0.0.1]:9000/",
    ],
)
def test_private_targets_are_one_line_of_config_away(url):
    assert check_target(url, LOCAL)
    assert check_target(url, CONFIG)


def test_names_wait_for_the_dial():
    """Creation asks no resolver: where a name leads is only known when it is dialled."""
    assert check_target("https://intranet.example/", API)
    assert check_target("https://db/", API)
    assert check_target("http://app.internal:8080/", LOCAL)
    assert check_target("http://app:8080/", CONFIG)


def test_http_is_for_private_targets_unless_it_is_allowed():
    with pytest.raises(InvalidInput, match="allow_http = true"):
        check_target("http://example.com/", API)
    assert check_target("http://example.com/", AddressPolicy(Trust.API, allow_http=True))
    with pytest.raises(InvalidInput, match="allow_http = true"):
        check_target("http://8.8.8.8/", CONFIG)


def test_a_refusal_shows_the_rule_and_the_line_of_config():
    with pytest.raises(InvalidInput, match=r"\[rule: private\].*allow = \[\"10\.0\.0\.5/32:8080\"\]"):
        check_target("http://10.0.0.5:8080/x", API)


def test_a_refusal_never_repeats_the_url():
    """A query string may hold a token, and what stands before an @ mostly is one."""
    for url in ("https://u:hunter2@example.com/", "http://10.0.0.1/?token=hunter2", "ftp://x/hunter2"):
        with pytest.raises(InvalidInput) as caught:
            check_target(url, API)
        assert "hunter2" not in str(caught.value)


_text = st.text(st.characters(min_codepoint=0x21, exclude_categories=["Cs"]), max_size=30)
_hosts = st.one_of(
    st.from_regex(r"[a-zA-Z0-9.\-_]{1,30}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    _text,
)
_urls = st.builds(
    "{}://{}{}{}".format, st.sampled_from(["http", "https", "HTTP"]), _hosts, st.sampled_from(["", ":80", ":08443", ":"]),
    st.one_of(st.just(""), _text.map(lambda text: "/" + text), _text.map(lambda text: "?" + text)),
)  # fmt: skip


@settings(deadline=None)
@given(_urls)
def test_an_accepted_url_is_accepted_again_as_the_same_target(url):
    try:
        target = check_target(url, EVERYTHING)
    except InvalidInput:
        return
    assert check_target(target.url, EVERYTHING) == target


@settings(deadline=None)
@given(_text)
def test_any_text_is_either_a_target_or_invalid_input(text):
    try:
        target = parse_target(text)
    except InvalidInput:
        return
    assert target.scheme in {"http", "https"}
    assert 1 <= target.port <= 65535


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x", "https://a.example/x"),
        ("https://a.example/x?new=1&page=two", "https://a.example/x?new=1&page=two"),
        ("https://a.example/x?", "https://a.example/x?"),
        ("https://a.example/x?token=abc", "https://a.example/x?token=****"),
        ("https://a.example/x?a=1&api_key=abc&b=2", "https://a.example/x?a=1&api_key=****&b=2"),
        ("https://a.example/x?PASSWORD=p&code=&sig=a%2Fb%3D", "https://a.example/x?PASSWORD=****&code=&sig=****"),
        (
            "https://a.example/invoke?api-version=2016-10-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=AbC_1-2",
            "https://a.example/invoke?api-version=2016-10-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=****",
        ),
        ("https://a.example/x?%74oken=abc&q=aB%2B3f6b1c9d8e7a4f20%3D", "https://a.example/x?%74oken=****&q=****"),
        ("https://a.example/x?q=3f6b1c9d8e7a4f20", "https://a.example/x?q=****"),
        ("https://a.example/x?3f6b1c9d8e7a4f20", "https://a.example/x?****"),
        ("https://a.example/x?q=a=b?c=d", "https://a.example/x?q=a=b?c=d"),
        ("https://a.example/x?q=abcdefghijklmnopqrstuvw", "https://a.example/x?q=abcdefghijklmnopqrstuvw"),
    ],
)
def test_secrets_in_a_query_are_masked_and_the_rest_is_shown(url, shown):
    assert mask_query_secrets(url) == shown


def test_a_masked_url_is_refused_so_that_it_does_not_replace_the_real_one():
    with pytest.raises(InvalidInput, match="is not shown; give the value itself"):
        check_target("https://a.example/x?token=****", API)
