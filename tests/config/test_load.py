"""All mistakes are reported at once, each with its key and remedy, and never with the value."""

from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.config.load import Config, ConfigInvalid, load_config, load_document
from bridge.config.show import show_config
from tests.config.config_files import DIFY, ENDPOINT, SIGNING_SECRET, TOKEN, load, mistakes, write

IN_QUOTES = 'expected a duration such as "250ms", "2s", "5m", "2h" or "30d", in quotes and with its unit'

# What stands in the file, the key at fault, and a part of the sentence.
TABLE = [
    ('[server]\napi_token = "t"\nlisten = "8484"', "server.listen", 'expected "host:port"'),
    ('[server]\napi_token = "t"\nlisten = ":8484"', "server.listen", 'expected "host:port"'),
    ('[server]\napi_token = "t"\nlisten = "*:8484"', "server.listen", '"0.0.0.0:8484"'),
    ('[server]\napi_token = "t"\nlisten = "::1:8484"', "server.listen", '"[::1]:port"'),
    ('[server]\napi_token = "t"\nlisten = "[10.0.0.1]:84"', "server.listen", "an IPv6 address"),
    ('[server]\napi_token = "t"\nlisten = "h:65536"', "server.listen", "a port lies between 0 and 65535"),
    ('[server]\napi_token = "t"\nlisten = "[::1]:999999"', "server.listen", "a port lies between 0 and 65535"),
    ('[server]\napi_token = "t"\nlisten = 8484', "server.listen", 'expected "host:port"'),
    ('[server]\napi_token = "t"\nlisten = "unix:api.sock"', "server.listen", "absolute"),
    (f'[server]\napi_token = "t"\nlisten = "unix:/{"x" * 110}"', "server.listen", "at most 107 bytes"),
    ('[server]\napi_token = "t"\nallowed_hosts = "a"', "server.allowed_hosts", "expected a list"),
    ('[server]\napi_token = "t"\nallowed_hosts = ["a:1"]', "server.allowed_hosts[0]", "without scheme and port"),
    ('[server]\napi_token = "t"\nbody_bytes_max = 1', "server.body_bytes_max", "at least 1024"),
    ('[server]\napi_token = "t"\nbody_bytes_max = 1e6', "server.body_bytes_max", "whole number"),
    ('[server]\napi_token = "two\\nlines"', "server.api_token", "line break"),
    ('[server]\napi_token = ""', "server.api_token", "is empty"),
    ("[server]\napi_token = 7", "server.api_token", "text in quotes"),
    ('[server]\napi_token = "t"\nlissten = "a"', "server.lissten", "unknown key; did you mean `listen`?"),
    ('[sever]\napi_token = "t"', "sever", "unknown section; did you mean `server`?"),
    ("server = 3", "server", "expected a table, written [server]"),
    ("connections = []", "connections", "written [connections.NAME]"),
    ('connections.main = "dify"', "connections.main", "written [connections.NAME]"),
    (TOKEN + '[database]\nurl = "sqlite://file.db"', "database.url", "count the slashes"),
    (TOKEN + '[database]\nurl = "sqlite:///x?.db"', "database.url", "no parameters"),
    (TOKEN + '[database]\nurl = "postgresql://h/db?sslmod=require"', "database.url", "did you mean `sslmode`"),
    (TOKEN + '[database]\nurl = "postgresql://h/db?channel_binding=require"', "database.url", "verify-full"),
    (TOKEN + '[database]\nurl = "sqlite:///:memory:"', "database.url", "name a file"),
    (TOKEN + '[database]\nurl = "postgres://h/db"', "database.url", "spell it postgresql://"),
    (TOKEN + '[database]\nurl = "postgresql+asyncpg://h/db"', "database.url", "leave out any +driver"),
    (TOKEN + '[database]\nurl = "postgresql://h:port/db"', "database.url", "user:password@host:5432"),
    (TOKEN + '[database]\nurl = "/var/lib/x.db"', "database.url", 'expected "sqlite:///PATH"'),
    (TOKEN + '[connections.x]\napi_key = "k"', "connections.x.provider", "one of dibby, retab, dify, instabase"),
    (TOKEN + '[connections.x]\nprovider = "dify"', "connections.x.api_key", "api_key, api_key_env, api_key_file"),
    (TOKEN + '[connections.x]\nprovider = "diffy"\napi_key = "k"', "connections.x.provider", "did you mean `dify`?"),
    (TOKEN + '[connections.x]\nprovider = "dyfi"\napi_key = "k"', "connections.x.provider", "did you mean `dify`?"),
    (TOKEN + DIFY.replace("main", '"a b"'), "connections.'a b'", "letters, digits"),
    (TOKEN + DIFY + 'base_url = "ftp://h"', "connections.main.base_url", "begin with http:// or https://"),
    (TOKEN + DIFY + 'base_url = "https://u:p@h"', "connections.main.base_url", "user name or password"),
    (TOKEN + DIFY + 'base_url = "https://h/v1?k=1"', "connections.main.base_url", "no query"),
    (TOKEN + DIFY + 'headers = { Authorization = "Basic x" }', "connections.main.headers", "sent for api_key"),
    (TOKEN + DIFY + 'headers = { Host = "x" }', "connections.main.headers", "set by the bridge"),
    (TOKEN + DIFY + 'headers = { "X-A" = 1 }', "connections.main.headers.X-A", "expected text in quotes"),
    (TOKEN + DIFY + 'proxy = "proxy:3128"', "connections.main.proxy", "the URL of an HTTP proxy"),
    (TOKEN + DIFY + 'proxy = "socks5://proxy:1080"', "connections.main.proxy", "the URL of an HTTP proxy"),
    (TOKEN + DIFY + 'proxy = "http://proxy/x"', "connections.main.proxy", "has no path"),
    (TOKEN + DIFY + 'ca_file = "none.pem"', "connections.main.ca_file", "no file none.pem"),
    (TOKEN + DIFY + 'ca_file = "runbridge.toml"', "connections.main.ca_file", "that can be read: it is not a PEM file"),
    (TOKEN + DIFY + 'ca_file = "/proc"', "connections.main.ca_file", "that can be read: Is a directory"),
    (TOKEN + DIFY + "requests_per_second = 0", "connections.main.requests_per_second", "more than 0"),
    (TOKEN + DIFY + "requests_per_second = inf", "connections.main.requests_per_second", "a finite number"),
    (TOKEN + DIFY + "max_in_flight = 0", "connections.main.max_in_flight", "at least 1"),
    (TOKEN + DIFY + "max_inflight = 3", "connections.main.max_inflight", "did you mean `max_in_flight`?"),
    (TOKEN + DIFY + "max_in_flight = true", "connections.main.max_in_flight", "a whole number"),
    (TOKEN + DIFY + 'fetch_output = "no"', "connections.main.fetch_output", "true or false"),
    (TOKEN + DIFY + "timeout = 30", "connections.main.timeout", IN_QUOTES),
    (TOKEN + DIFY + 'timeout = "30"', "connections.main.timeout", "250ms, 2s, 5m, 2h or 30d"),
    (TOKEN + DIFY + 'timeout = "1h"', "connections.main.timeout", "between 100ms and 10m"),
    (TOKEN + DIFY + 'ib_context = "org"', "connections.main.ib_context", "only instabase connections"),
    (TOKEN + DIFY + 'auth_scheme = "bearer"', "connections.main.auth_scheme", "only retab connections"),
    (TOKEN + DIFY + 'discovers = "x"', "connections.main.discovers", "unknown key"),
    (TOKEN + DIFY + 'cadence = { price = "1s" }', "connections.main.cadence", "stand in the connection itself"),
    (TOKEN + DIFY + 'delivery = { timeout = "3s" }', "connections.main.delivery", "at the top of the file"),
    (TOKEN + DIFY + 'base_url = "https://h:99999"', "connections.main.base_url", "a port between 1 and 65535"),
    (TOKEN + DIFY + "discover = true", "connections.main.discover", "only retab and instabase have"),
    (
        TOKEN + DIFY.replace("dify", "retab") + 'discover_workflows = ["wf_1"]',
        "connections.main.discover_workflows",
        "set discover = true",
    ),
    (TOKEN + DIFY + 'price = "1s"\ntarget_delay = "2s"', "connections.main.target_delay", "not both"),
    (TOKEN + DIFY + 'max_interval = "100ms"', "connections.main.max_interval", "min_interval 250ms"),
    (TOKEN + DIFY + 'min_interval = "1h"', "connections.main.max_interval", "max_interval 5m"),
    (TOKEN + '[cadence]\ntarget_delay = "0%"', "cadence.target_delay", '"5%"'),
    (TOKEN + '[cadence]\nmin_interval = "0s"', "cadence.min_interval", "between 10ms and 3650d"),
    (TOKEN + f'[cadence]\ndeadline = "{"9" * 400}d"', "cadence.deadline", "at most 3650d"),
    (TOKEN + '[cadence]\nmin_interval = "9m"', "cadence.max_interval", "shorter than min_interval"),
    (TOKEN + '[endpoints.x]\nurl = "https://h"', "endpoints.x.secret", "secret, secret_env, secret_file"),
    (TOKEN + f'[endpoints.x]\nsecret = "{SIGNING_SECRET}"', "endpoints.x.url", "missing"),
    (TOKEN + '[endpoints.x]\nurl = "https://h"\nsecret = "hunter2"', "endpoints.x.secret", "starts with whsec_"),
    (TOKEN + '[endpoints.x]\nurl = "https://h"\nsecret = "whsec_QUJD"', "endpoints.x.secret", "24 to 64 bytes"),
    (TOKEN + ENDPOINT + 'events = ["run.finish"]', "endpoints.app.events[0]", "did you mean `run.finished`?"),
    (TOKEN + ENDPOINT + 'events = ["run.*"]', "endpoints.app.events[0]", "expected one of run.started"),
    (TOKEN + ENDPOINT + "events = []", "endpoints.app.events", "leave the key out"),
    (TOKEN + ENDPOINT + "events = [3]", "endpoints.app.events[0]", "expected one of"),
    (TOKEN + ENDPOINT + 'filter = "data.run.status =="', "endpoints.app.filter", "not a JMESPath expression"),
    (TOKEN + ENDPOINT + f'filter = "{"(" * 1000}"', "endpoints.app.filter", "not a JMESPath expression"),
    (TOKEN + ENDPOINT.replace("127.0.0.1:9000", "169.254.169.254"), "endpoints.app.url", "[rule: metadata]"),
    (TOKEN + ENDPOINT.replace("127.0.0.1:9000", "8.8.8.8"), "endpoints.app.url", "allow_http = true"),
    (TOKEN + ENDPOINT.replace("127.0.0.1", "0x7f.1"), "endpoints.app.url", "unusual spelling"),
    (TOKEN + ENDPOINT.replace("/hooks", "/#hooks"), "endpoints.app.url", "fragment"),
    (TOKEN + ENDPOINT + 'payload = "thick"', "endpoints.app.payload", "did you mean `thin`?"),
    (TOKEN + ENDPOINT + 'headers = { Host = "h" }', "endpoints.app.headers", "set by the bridge"),
    (TOKEN + ENDPOINT + "headers = { X-A = 1 }", "endpoints.app.headers.X-A", "expected text in quotes"),
    (TOKEN + "[delivery]\ntimeout = '61s'", "delivery.timeout", "between 1s and 60s"),
    (TOKEN + "[delivery]\nretry_schedule = ['5s', 5]", "delivery.retry_schedule[1]", IN_QUOTES),
    (TOKEN + '[delivery]\nallow = ["10.0.0.5/8"]', "delivery.allow[0]", "write 10.0.0.0/8 for the network"),
    (TOKEN + '[delivery]\nallow = ["fd00::1/8"]', "delivery.allow[0]", "write fd00::/8 for the network"),
    (TOKEN + '[delivery]\nallow = ["10.0.0.0/8:0"]', "delivery.allow[0]", "ports are 1 to 65535"),
    (TOKEN + '[delivery]\nallow = ["my-host"]', "delivery.allow[0]", "not an address or network"),
    (TOKEN + '[delivery]\nallow = ["fe80::1%eth0"]', "delivery.allow[0]", "not an address or network"),
    (TOKEN + "[delivery]\nallow_http = 1", "delivery.allow_http", "true or false"),
    (TOKEN + "[delivery]\nmax_in_flight = 0", "delivery.max_in_flight", "at least 1"),
    (TOKEN + '[log]\nlevel = "verbose"', "log.level", "expected one of debug, info, warning, error"),
    (TOKEN + '[log]\nformat = "jsn"', "log.format", "did you mean `json`?"),
]


@pytest.mark.parametrize(
    ("text", "field", "part"), TABLE, ids=[f"{field}-{n}" for n, (_, field, _) in enumerate(TABLE)]
)
def test_a_mistake_names_its_key_and_the_remedy(tmp_path: Path, text: str, field: str, part: str):
    found = mistakes(tmp_path, text)
    assert part in found[field]
    assert set(found) - {"server.api_token"} <= {field, "connections.x.api_key"}


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path):
    """Windows' Notepad writes one."""
    path = tmp_path / "runbridge.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TOKEN.encode())
    path.chmod(0o600)
    assert load_config(path, env={"HOME": str(tmp_path)}).server.api_token.reveal() == "a-token"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("Bearer app-key", "begins with `Bearer`"),
        ("bearer app-key", "begins with `Bearer`"),
        ("'app-key'", "a quotation mark"),
        ('app"key', "a quotation mark"),
        ("DIFY_API_KEY=app-key", "begins with `NAME=`"),
        ("export DIFY_API_KEY=app-key", "begins with `NAME=`"),
        ("Authorization: Bearer app-key", "begins with the name of a header"),
        ("<your key>", "a placeholder"),
        ("${DIFY_API_KEY}", "a placeholder"),
        ("$DIFY_API_KEY", "a placeholder"),
        ("%DIFY_API_KEY%", "a placeholder"),
        ("YOUR_API_KEY", "a placeholder"),
        ("Basic app-key", "holds a blank"),
    ],
)
def test_a_key_with_what_was_copied_around_it_is_a_warning(tmp_path: Path, key: str, says: str):
    (tmp_path / "key").write_text(f"\ufeff{key}\r\n")
    text = TOKEN + '[connections.main]\nprovider = "dify"\napi_key_file = "key"\n'
    (warning,) = load(tmp_path, text).warnings
    assert (warning.field, says in warning.message) == ("connections.main.api_key", True)
    assert key not in warning.message


@pytest.mark.parametrize("key", ["app-key", "bearertoken", "abc=", "a=b==", "user:pass"])
def test_a_plain_key_is_no_warning(tmp_path: Path, key: str):
    assert load(tmp_path, TOKEN + DIFY.replace("app-key", key)).warnings == ()


@pytest.mark.parametrize(
    ("key", "says"),
    [("user:pass word", None), ("user: 'pass'", None), ("u:X=1", None), ("token", "holds no `:`"), ("", None)],
)
def test_the_password_of_a_login_may_hold_anything(tmp_path: Path, key: str, says: str | None):
    """Only the colon is missed, because the whole is sent as user and password."""
    text = TOKEN + f'[connections.main]\nprovider = "jenkins"\nbase_url = "https://ci.example.com"\napi_key = "{key}"\n'
    if not key:
        assert "is empty" in mistakes(tmp_path, text)["connections.main.api_key"]
        return
    found = [warning.message for warning in load(tmp_path, text).warnings if "others can read" not in warning.message]
    assert [says in message for message in found] == ([True] if says else [])


@pytest.mark.parametrize(
    ("provider", "header", "is_taken"),
    [
        ("n8n", "X-N8N-API-KEY", True),
        ("n8n", "Authorization", False),
        ("jenkins", "Authorization", True),
        ("replicate", "authorization", True),
        ("replicate", "CF-Access-Client-Id", False),
    ],
)
def test_a_header_is_refused_where_the_key_is_sent_in_it(tmp_path: Path, provider: str, header: str, is_taken: bool):
    """The rest is for the gateway before the provider: n8n's key goes its own way, and nginx may want a login."""
    text = TOKEN + f'[connections.main]\nprovider = "{provider}"\nbase_url = "https://x.example.com"\n'
    text += f'api_key = "u:key-123456"\nheaders = {{ {header} = "x" }}\n'
    if is_taken:
        assert "is sent for api_key" in mistakes(tmp_path, text)["connections.main.headers"]
    else:
        assert load(tmp_path, text).connections["main"].headers == {header: "x"}


def test_a_connection_is_reached_by_its_own_route(tmp_path: Path):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    more = 'headers = { CF-Access-Client-Id = "me" }\nca_file = "ca.pem"\nproxy_env = "HUB_PROXY"\n'
    proxy = "http://user:canary@proxy.example.org:3128"
    config = load(tmp_path, TOKEN + DIFY + more, env={"HUB_PROXY": proxy, "HTTPS_PROXY": "http://other"})
    main = config.connections["main"]
    assert (main.headers, main.ca_file, main.proxy) == ({"CF-Access-Client-Id": "me"}, str(tmp_path / "ca.pem"), proxy)
    shown = {row.key.removeprefix("connections.main."): row.value for row in show_config(config)}
    assert shown["proxy"] == "http://user:****@proxy.example.org:3128"
    assert shown["headers"] == "{CF-Access-Client-Id = ****}"
    assert "canary" not in repr(config)


def test_every_mistake_is_reported_at_once(tmp_path: Path):
    found = mistakes(
        tmp_path,
        """
        [server]
        listen = "nowhere"
        colour = "red"
        [connections.a]
        provider = "retb"
        [connections.b]
        provider = "dify"
        api_key_env = "NOT_SET"
        price = 3
        ib_context = "org"
        [connections."b c"]
        provider = "dibbi"
        api_key = "k"
        [endpoints.c]
        url = "gopher://x"
        events = ["run.begun", "run.finished"]
        secret_file = "nothing-here"
        [endpoints."c d"]
        url = "gopher://x"
        secret_env = "NOT_SET"
        [nonsense]
        """,
        env={"RUNBRIDGE_LOG__LEVEL": "loud", "RUNBRIDGE_SERVER__LISTN": "x"},
    )
    assert set(found) == {
        "server.api_token",
        "server.listen",
        "server.colour",
        "connections.a.provider",
        "connections.a.api_key",
        "connections.b.api_key_env",
        "connections.b.price",
        "connections.b.ib_context",
        "connections.'b c'",
        "connections.'b c'.provider",
        "endpoints.c.url",
        "endpoints.c.events[0]",
        "endpoints.c.secret_file",
        "endpoints.'c d'",
        "endpoints.'c d'.url",
        "endpoints.'c d'.secret_env",
        "nonsense",
        "log.level",
        "RUNBRIDGE_SERVER__LISTN",
    }


def test_without_a_token_the_remedy_is_init():
    with pytest.raises(ConfigInvalid) as caught:
        load_config(None, env={"HOME": "/nowhere"})
    assert [problem.field for problem in caught.value.problems] == ["server.api_token"]
    assert "runbridge init" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'[server]\nlisten "x"\n', "not TOML at line 2, column 8"),
        (b"[server", "not TOML at end of document"),
        (b"[server]\n[server]\n", "not TOML at line 2, column 8: Cannot declare [server] twice"),
        (b'a = "\xff"', "line 1 is not UTF-8"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_toml_is_one_sentence_with_the_place(tmp_path: Path, content: bytes, part: str):
    path = tmp_path / "runbridge.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid) as caught:
        load_config(path, env={})
    (problem,) = caught.value.problems
    assert problem.field == str(path)
    assert part in problem.message
    assert "\n" not in problem.message


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path):
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigInvalid, match=reason):
            load_config(path, env={})


@settings(deadline=None)  # the machine may be busy; speed is not the point
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60))
def test_what_was_given_is_never_repeated(tmp_path_factory: pytest.TempPathFactory, text: str):
    """A key pasted into the wrong place must not reach a log; TOML that does not parse included."""
    folder = tmp_path_factory.mktemp("canary")
    canary = "canary8c1f"
    quoted = '"' + "".join(f"\\U{ord(char):08x}" for char in text + canary) + '"'
    content = f"""
    [server]
    listen = {quoted}
    api_token = "\\n{canary}"
    allowed_hosts = [{quoted}]
    [database]
    url = {quoted}
    [connections.x]
    provider = {quoted}
    api_key = ["{canary}"]
    base_url = {quoted}
    timeout = {quoted}
    target_delay = {quoted}
    ib_context = "\\n{canary}"
    [endpoints.x]
    url = "http://user:{canary}@h/"
    secret = {quoted}
    events = [{quoted}]
    headers = {{ host = {quoted} }}
    [log]
    level = {quoted}
    """
    with pytest.raises(ConfigInvalid) as caught:
        load_config(write(folder, content), env={"RUNBRIDGE_LOG__FORMAT": canary})
    assert canary not in str(caught.value)
    assert canary not in repr(caught.value)


@settings(deadline=None)  # the machine may be busy; speed is not the point
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ),
    st.sampled_from(["server", "database", "connections", "endpoints", "delivery", "cadence", "log"]),
)
def test_no_document_breaks_the_loader(document: dict[str, object], section: str):
    """Any TOML yields either a configuration or sentences."""
    for content in (document, {section: document}, {section: {"a": document}}):
        taken: Config | ConfigInvalid
        try:
            taken = load_document(content, None, env={"HOME": "/nowhere"}, flags={})
        except ConfigInvalid as invalid:
            taken = invalid
        assert isinstance(taken, Config) or taken.problems


def test_good_values_of_every_kind_are_taken(tmp_path: Path):
    """The other side of the table: nothing above is refused by accident."""
    config = load(
        tmp_path,
        """
        [server]
        api_token = "t"
        listen = "[::1]:0"
        allowed_hosts = ["Bridge.Example.org", "[::1]", "10.0.0.1"]
        [database]
        url = "postgresql://user:p%40ss@db.example.org:5432/runbridge?sslmode=require"
        [connections.hub]
        provider = "instabase"
        api_key = "k"
        base_url = "http://10.1.2.3:8080/api/"
        ib_context = "my-org"
        requests_per_second = 5
        target_delay = "2.5%"
        [delivery]
        allow = ["127.0.0.0/8", "10.0.0.5/32:8080", "10.0.0.5", "10.0.0.5:80", "[fd00::/8]:8080", "fd00::/8", "::1"]
        retry_schedule = []
        timeout = "1m"
        [log]
        level = "WARNING"
        """,
    )
    assert str(config.server.listen) == "[::1]:0"
    assert config.server.allowed_hosts == ("bridge.example.org", "[::1]", "10.0.0.1")
    assert config.connections["hub"].base_url == "http://10.1.2.3:8080/api"
    assert config.connections["hub"].requests_per_second == 5.0
    assert config.connections["hub"].options == {"ib_context": "my-org"}
    assert config.connections["hub"].cadence.target_delay == "2.5%"
    assert config.delivery.schedule.delays_s == ()
    assert config.delivery.timeout_s == 60
    assert config.log.level == "warning"
