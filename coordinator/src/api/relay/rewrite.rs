//! What an app says of its own address, in the words of the address it is relayed at.

use http::header::{HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use url::Url;

/// Rewrites redirects to the app itself, and the paths of its cookies: all relayed apps share one
/// host, and one must not be sent the other's cookies.
pub(super) fn answer(headers: &mut HeaderMap, origin: &Url, prefix: &str) {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let moved = location.and_then(|location| relayed(location, origin, prefix));
    if let Some(location) = moved.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(LOCATION, location);
    }
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        let scoped = cookie.to_str().ok().map(|text| scope(text, prefix));
        let scoped = scoped.and_then(|text| HeaderValue::try_from(text).ok());
        headers.append(SET_COOKIE, scoped.unwrap_or(cookie));
    }
}

/// Where a redirect leads here; `None` if it leaves the app or is relative to its own path.
fn relayed(location: &str, origin: &Url, prefix: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{prefix}{location}"));
    }
    let url = Url::parse(location).ok()?;
    let rest = &url[url::Position::BeforePath..];
    (url.origin() == origin.origin()).then(|| format!("{prefix}{rest}"))
}

/// A cookie for the app's own paths and for this host only.
fn scope(cookie: &str, prefix: &str) -> String {
    let mut parts = cookie.split(';').map(str::trim);
    let pair = parts.next().unwrap_or_default();
    let mut path = "/".to_owned();
    let mut kept = vec![pair.to_owned()];
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "path" if value.starts_with('/') => path = value.to_owned(),
            "path" | "domain" => {}
            _ => kept.push(part.to_owned()),
        }
    }
    kept.push(format!("Path={prefix}{path}"));
    kept.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/apps/c1/jupyter";

    fn origin() -> Url {
        Url::parse("http://worker:10205").unwrap()
    }

    #[test]
    fn redirects_to_the_app_stay_on_the_relay() {
        let cases = [
            ("/lab?x=1", Some("/apps/c1/jupyter/lab?x=1")),
            ("http://worker:10205/lab#a", Some("/apps/c1/jupyter/lab#a")),
            ("http://worker:10206/lab", None),
            ("https://elsewhere.example/", None),
            ("//elsewhere.example/", None),
            ("lab", None),
        ];
        for (location, expected) in cases {
            let found = relayed(location, &origin(), PREFIX);
            assert_eq!(found.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn cookies_are_for_the_app_alone() {
        let mut headers = HeaderMap::new();
        for cookie in [
            "a=1; Path=/; HttpOnly",
            "b=2; Domain=.example; path=/lab",
            "c=3",
        ] {
            headers.append(SET_COOKIE, cookie.parse().unwrap());
        }
        answer(&mut headers, &origin(), PREFIX);
        let kept: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(
            kept,
            [
                "a=1; HttpOnly; Path=/apps/c1/jupyter/",
                "b=2; Path=/apps/c1/jupyter/lab",
                "c=3; Path=/apps/c1/jupyter/",
            ]
        );
    }
}
