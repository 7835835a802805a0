//! Who gets an answer: requests for the server's own name, from its own pages, with the token where there is one.
//!
//! A page of another site can make a browser send requests to a loopback address, under its own name if that name resolves to it (DNS
//! rebinding). The name in `Host` is what tells them apart; `Sec-Fetch-Site` and the absence of CORS headers do the rest.

use std::io::Read;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};

/// The cookie with the token.
const COOKIE: &str = "podroute-web";
/// Octets of a token.
const TOKEN_LENGTH: usize = 16;

/// Nothing but the server's own files; scripts and styles from files only, and no frame around the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer.
pub(crate) const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// A secret that the address of the first page carries, and a cookie afterwards: other users of the machine do not have it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// A random one.
    ///
    /// # Errors
    /// The kernel gives no random octets.
    pub fn random() -> Result<Self, crate::Error> {
        let mut octets = [0; TOKEN_LENGTH];
        let mut source = std::fs::File::open("/dev/urandom").map_err(crate::Error::Token)?;
        source.read_exact(&mut octets).map_err(crate::Error::Token)?;
        Ok(Self(octets.iter().map(|octet| format!("{octet:02x}")).collect()))
    }

    /// For the address of the first page.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is(&self, other: &str) -> bool {
        // The time does not depend on where they differ.
        let differs = self
            .0
            .bytes()
            .zip(other.bytes())
            .fold(0, |sum, (one, other)| sum | (one ^ other));
        differs == 0 && self.0.len() == other.len()
    }
}

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Serve,
    /// The token was in the address: from now on it is in this cookie.
    SetCookie(HeaderValue),
    Refuse(StatusCode, &'static str),
}

/// Decides by the request's head.
pub(crate) fn judge(uri: &Uri, headers: &HeaderMap, token: Option<&Token>) -> Verdict {
    if !is_own_name(headers) {
        return Verdict::Refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "the request is for another host name",
        );
    }
    if is_cross_site(headers) && uri.path().starts_with("/api/") {
        return Verdict::Refuse(
            StatusCode::FORBIDDEN,
            "the request comes from a page of another site",
        );
    }
    let Some(token) = token else {
        return Verdict::Serve;
    };
    if cookies(headers).any(|value| token.is(value)) {
        return Verdict::Serve;
    }
    let given = uri.query().and_then(|query| query.strip_prefix("token="));
    match given {
        Some(given) if uri.path() == "/" && token.is(given) => cookie(token),
        _ => Verdict::Refuse(
            StatusCode::UNAUTHORIZED,
            "use the address that the command printed: it has the token",
        ),
    }
}

fn cookie(token: &Token) -> Verdict {
    let text = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/", token.0);
    match HeaderValue::from_str(&text) {
        Ok(value) => Verdict::SetCookie(value),
        Err(_) => Verdict::Refuse(StatusCode::INTERNAL_SERVER_ERROR, "the token makes no cookie"),
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let pairs = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'));
    pairs.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Names that no other site can have: the loopback addresses themselves, and `localhost`, which browsers resolve on their own.
fn is_own_name(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    if let Ok(address) = host.parse::<std::net::SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.contains(':') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Browsers say where a request comes from; other programs say nothing.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn only_names_of_this_machine() {
        for (host, wanted) in [
            ("127.0.0.1:9180", true),
            ("127.0.0.1", true),
            ("127.1.2.3:80", true),
            ("[::1]:9180", true),
            ("[::1]", true),
            ("localhost:9180", true),
            ("LOCALHOST", true),
            ("evil.example", false),
            ("evil.example:9180", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:9180", false),
            ("192.0.2.1:9180", false),
            ("", false),
        ] {
            let verdict = judge(&uri("/"), &headers(&[("host", host)]), None);
            assert_eq!(verdict == Verdict::Serve, wanted, "{host}: {verdict:?}");
        }
        assert_ne!(
            judge(&uri("/"), &HeaderMap::new(), None),
            Verdict::Serve,
            "no Host"
        );
    }

    #[test]
    fn pages_of_other_sites_get_no_documents() {
        for (site, wanted) in [
            ("same-origin", true),
            ("none", true),
            ("cross-site", false),
            ("same-site", false),
        ] {
            let headers = headers(&[("host", "localhost"), ("sec-fetch-site", site)]);
            let verdict = judge(&uri("/api/v1/peers"), &headers, None);
            assert_eq!(verdict == Verdict::Serve, wanted, "{site}");
        }
    }

    #[test]
    fn the_token_is_needed_once_and_then_the_cookie() {
        let token = Token("00ff".to_owned());
        let judge = |path: &str, cookie: &str| {
            judge(
                &uri(path),
                &headers(&[("host", "localhost"), ("cookie", cookie)]),
                Some(&token),
            )
        };
        let Verdict::SetCookie(cookie) = judge("/?token=00ff", "") else {
            panic!("no cookie");
        };
        assert!(cookie.to_str().unwrap().contains("HttpOnly; SameSite=Strict"));
        assert_eq!(judge("/api/v1/peers", "a=b; podroute-web=00ff"), Verdict::Serve);
        for (path, cookie) in [
            ("/", ""),
            ("/?token=00fe", ""),
            ("/?token=00f", ""),
            ("/api/v1/peers?token=00ff", ""),
            ("/", "podroute-web=00fe"),
            ("/", "podroute-webx=00ff"),
        ] {
            assert!(
                matches!(judge(path, cookie), Verdict::Refuse(StatusCode::UNAUTHORIZED, _)),
                "{path} {cookie}"
            );
        }
    }

    #[test]
    fn tokens_differ_and_do_not_appear_in_logs() {
        let [one, other] = [(); 2].map(|()| Token::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 2 * TOKEN_LENGTH);
        assert!(!format!("{one:?}").contains(one.as_str()));
    }
}
