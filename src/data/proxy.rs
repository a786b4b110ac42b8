//! Proxies as in curl: chosen from the environment by the scheme of the address; http is forwarded,
//! https is tunnelled.
//!
//! ureq tunnels both by `CONNECT`, which proxies commonly refuse for port 80. [`Forwarding`] adds the
//! absolute form of RFC 9112, section 3.2.2.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, RustlsConnector,
    TcpConnector, Transport,
};
use ureq::{Error, Proxy, ProxyProtocol};

/// The proxy for an address, if there is one: `http_proxy` or `HTTP_PROXY` for http, `https_proxy`
/// or `HTTPS_PROXY` for https, else `all_proxy` or `ALL_PROXY`; not for hosts in `no_proxy` or
/// `NO_PROXY`, where `example.org` includes `www.example.org`.
///
/// # Errors
/// The variable, its value, and what was expected.
pub(crate) fn of(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let get = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    let is_https = (url.get(..6)).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
    let scheme = if is_https {
        "https_proxy"
    } else {
        "http_proxy"
    };
    let names = [scheme, "all_proxy"].map(|name| [name.to_string(), name.to_ascii_uppercase()]);
    let set = (names.iter().flatten()).find_map(|name| Some((name, get(name)?)));
    let Some((name, value)) = set else {
        return Ok(None);
    };
    let wrong = |_| format!("{name} is {value:?}, expected http://HOST:PORT or socks5://HOST:PORT");
    let proxy = Proxy::new(value.trim()).map_err(wrong)?;
    let mut builder = Proxy::builder(proxy.protocol())
        .host(proxy.host())
        .port(proxy.port())
        .resolve_target(proxy.resolve_target());
    if let Some(user) = proxy.username() {
        builder = builder.username(user);
    }
    if let Some(password) = proxy.password() {
        builder = builder.password(password);
    }
    let without = get("no_proxy")
        .or_else(|| get("NO_PROXY"))
        .unwrap_or_default();
    for host in without.split([',', ' ']).filter(|host| !host.is_empty()) {
        let host = host.strip_prefix('.').unwrap_or(host);
        builder = builder.no_proxy(host).no_proxy(&format!(".{host}"));
        if host.contains(':') {
            builder = builder.no_proxy(&format!("[{host}]"));
        }
    }
    builder.build().map(Some).map_err(wrong)
}

/// ureq's connector, with the absolute form for http through an http proxy.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    other: DefaultConnector,
}

impl Connector for Forwarding {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let forwards = |proxy: &&Proxy| {
            matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
                && !proxy.is_no_proxy(details.uri)
        };
        let host = details.uri.authority().filter(|_| !details.needs_tls());
        let (Some(proxy), Some(host)) = (details.config.proxy().filter(forwards), host) else {
            return self.other.connect(details, chained);
        };
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs: (details.resolver).resolve(proxy.uri(), details.config, details.timeout)?,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let socket = TcpConnector::default().chain(RustlsConnector::default());
        let Some(inner) = socket.connect(&to_proxy, chained)? else {
            return Ok(None);
        };
        // Without user and password of the address.
        let port = host.port().map_or(String::new(), |port| format!(":{port}"));
        let authorization = (proxy.username().or(proxy.password())).map(|_| {
            let (user, password) = (proxy.username(), proxy.password());
            let pair = format!("{}:{}", user.unwrap_or(""), password.unwrap_or(""));
            let encoded = BASE64_STANDARD.encode(pair);
            format!("Proxy-Authorization: Basic {encoded}\r\n")
        });
        Ok(Some(Box::new(AbsoluteForm {
            inner: Box::new(inner),
            host: format!("http://{}{port}", host.host()),
            authorization: authorization.unwrap_or_default(),
        })))
    }
}

/// A connection to a proxy, with requests in the absolute form.
#[derive(Debug)]
struct AbsoluteForm {
    inner: Box<dyn Transport>,
    /// `http://HOST:PORT`.
    host: String,
    /// The header line for the proxy, or empty.
    authorization: String,
}

impl AbsoluteForm {
    /// A request that begins with `GET /path`, with the host before the path, and the header.
    fn head(&self, head: &[u8]) -> Option<Vec<u8>> {
        let path = head
            .strip_prefix(b"GET ")
            .filter(|path| path.starts_with(b"/"))?;
        let line = path.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let parts = [
            b"GET ",
            self.host.as_bytes(),
            &path[..line],
            self.authorization.as_bytes(),
            &path[line..],
        ];
        Some(parts.concat())
    }
}

impl Transport for AbsoluteForm {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let head = self.inner.buffers().output()[..amount].to_vec();
        let Some(head) = self.head(&head) else {
            return self.inner.transmit_output(amount, timeout);
        };
        let output = self.inner.buffers().output();
        let Some(output) = output.get_mut(..head.len()) else {
            return Err(Error::Other("the request is too long for a proxy".into()));
        };
        output.copy_from_slice(&head);
        self.inner.transmit_output(head.len(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, env: &[(&str, &str)]) -> Result<Option<(String, u16)>, String> {
        let proxy = of(url, |name| {
            let value = env.iter().find(|(variable, _)| *variable == name);
            value.map(|(_, value)| value.to_string())
        })?;
        let uri = url.parse().unwrap();
        let proxy = proxy.filter(|proxy| !proxy.is_no_proxy(&uri));
        Ok(proxy.map(|proxy| (proxy.host().to_string(), proxy.port())))
    }

    /// curl's manual, section "Environment"; upper case HTTP_PROXY, which curl ignores, is read.
    #[test]
    fn the_proxy_of_the_environment_is_that_of_curl() {
        let (http, https) = ("http://a.example.org/x", "https://a.example.org/x");
        let all = [
            ("http_proxy", "http://plain:3128"),
            ("HTTPS_PROXY", "secure:3129"),
            ("ALL_PROXY", "socks5h://other"),
        ];
        for (url, env, expected) in [
            (http, &all[..], Some(("plain", 3128))),
            (https, &all, Some(("secure", 3129))),
            (http, &all[1..], Some(("other", 1080))),
            (http, &all[1..2], None),
            (
                http,
                &[("HTTP_PROXY", "http://user:a%40b@plain")],
                Some(("plain", 80)),
            ),
            (http, &[("http_proxy", " "), ("all_proxy", "")], None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_string(), port));
            assert_eq!(chosen(url, env), Ok(expected), "{url} {env:?}");
        }
        for (without, direct) in [
            ("example.org", true),
            (".example.org", true),
            ("other, A.EXAMPLE.org", true),
            ("*", true),
            ("xample.org", false),
            ("example.org.uk", false),
            ("b.example.org", false),
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let found = chosen(http, &[("http_proxy", "plain"), (name, without)]);
                assert_eq!(found.unwrap().is_none(), direct, "{without}");
            }
        }
        for bad in ["http://", "ftp://host", "a b"] {
            let error = chosen(http, &[("ALL_PROXY", bad)]).unwrap_err();
            assert!(error.contains("ALL_PROXY is"), "{error}");
        }
    }
}
