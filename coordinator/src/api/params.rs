//! Request parameters (contract/rest-coordinator.md §3).
//!
//! A body, where there is one, wins over the query string entirely. It is JSON whatever its
//! `Content-Type` says, unless that is `text/yaml`. Values are read leniently (`"123"` is a
//! number, `"on"` is true) and all mistakes are answered together.

use std::cell::RefCell;
use std::str::FromStr;

use axum::body::Body;
use axum::extract::{FromRequest, Query};
use chrono::{DateTime, Utc};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use patchbay_common::circuit::Protocol;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::App;
use super::error::{ApiError, FieldError};

/// The parameters of one request.
#[derive(Debug, Default)]
pub(crate) struct Params(Map<String, Value>);

impl FromRequest<App> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return from_query(&parts.uri).map(Self);
        }
        let limit = usize::try_from(app.body_limit).unwrap_or(usize::MAX);
        let bytes = match Limited::new(body, limit).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(ApiError::BadRequest(format!(
                    "the body is larger than {limit} bytes (server.body_limit)"
                )));
            }
            Err(_) => return Err(ApiError::MalformedBody),
        };
        if bytes.is_empty() {
            return from_query(&parts.uri).map(Self);
        }
        from_body(&parts.headers, &bytes).map(Self)
    }
}

impl Params {
    /// The parameters as fields to read.
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields {
            map: &self.0,
            path: Vec::new(),
            errors: Errors::default(),
        }
    }

    /// The parameters as a whole, for bodies that programs of ours write.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        serde_json::from_value(Value::Object(self.0)).map_err(|error| {
            let mistake = FieldError::new("value_error", Vec::new(), error.to_string());
            ApiError::Invalid(vec![mistake])
        })
    }

    /// The parameters as they came, for bodies that are read strictly.
    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Whether there is a parameter of this name.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

fn from_query(uri: &http::Uri) -> Result<Map<String, Value>, ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| ApiError::BadRequest("the query string cannot be read".into()))?;
    let mut map = Map::new();
    for (key, value) in pairs {
        map.entry(key).or_insert(Value::String(value));
    }
    Ok(map)
}

fn from_body(headers: &HeaderMap, bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let value = if kind.trim().eq_ignore_ascii_case("text/yaml") {
        let value = serde_yaml_ng::from_slice(bytes).map_err(|_| ApiError::MalformedBody)?;
        scalars_as_text(value)
    } else {
        serde_json::from_slice(bytes).map_err(|_| ApiError::MalformedBody)?
    };
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(ApiError::BadRequest("the body must be an object".into())),
    }
}

fn scalars_as_text(value: Value) -> Value {
    match value {
        Value::Bool(flag) => Value::String(flag.to_string()),
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(scalars_as_text).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, scalars_as_text(value)))
            .collect(),
        other => other,
    }
}

/// Kind of mistake and what to do about it.
pub(crate) type Misfit = (&'static str, String);

type Errors = std::rc::Rc<RefCell<Vec<FieldError>>>;

/// Reads the fields of one object and gathers what does not fit. Not to be held across an await.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: Vec<Value>,
    errors: Errors,
}

impl<'a> Fields<'a> {
    /// A field that may be absent or null.
    pub(crate) fn optional<T>(
        &self,
        key: &str,
        read: impl Fn(&'a Value) -> Result<T, Misfit>,
    ) -> Option<T> {
        match self.map.get(key)? {
            Value::Null => None,
            value => self.read(key, value, read),
        }
    }

    /// A field that must be there; `None` was noted as a mistake.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        read: impl Fn(&'a Value) -> Result<T, Misfit>,
    ) -> Option<T> {
        let Some(value) = self.map.get(key) else {
            self.refuse(key, ("missing", "Field required".into()));
            return None;
        };
        self.read(key, value, read)
    }

    /// An object inside this one.
    pub(crate) fn inner(&self, key: &str) -> Option<Fields<'a>> {
        let map = self.required(key, |value| {
            value
                .as_object()
                .ok_or_else(|| ("dict_type", "Input should be an object".into()))
        })?;
        let mut path = self.path.clone();
        path.push(key.into());
        Some(Fields {
            map,
            path,
            errors: Errors::clone(&self.errors),
        })
    }

    /// An object inside this one that may be absent or null.
    pub(crate) fn optional_inner(&self, key: &str) -> Option<Fields<'a>> {
        match self.map.get(key)? {
            Value::Null => None,
            _ => self.inner(key),
        }
    }

    /// The objects of a list inside this one.
    pub(crate) fn items(&self, key: &str) -> Option<Vec<Fields<'a>>> {
        let items = self.required(key, |value| {
            let items = value.as_array();
            items.ok_or_else(|| ("list_type", "Input should be a list of objects".into()))
        })?;
        let item = |(place, value): (usize, &'a Value)| {
            let mut path = self.path.clone();
            path.extend([key.into(), place.into()]);
            match value.as_object() {
                Some(map) => Some(Fields {
                    map,
                    path,
                    errors: Errors::clone(&self.errors),
                }),
                None => {
                    let msg = "Input should be an object";
                    let error = FieldError::new("dict_type", path, msg);
                    self.errors.borrow_mut().push(error);
                    None
                }
            }
        };
        Some(items.iter().enumerate().filter_map(item).collect())
    }

    fn read<T>(
        &self,
        key: &str,
        value: &'a Value,
        read: impl Fn(&'a Value) -> Result<T, Misfit>,
    ) -> Option<T> {
        read(value).map_err(|misfit| self.refuse(key, misfit)).ok()
    }

    /// Notes a mistake in a field.
    pub(crate) fn refuse(&self, key: &str, (kind, msg): Misfit) {
        let mut path = self.path.clone();
        path.push(key.into());
        self.errors
            .borrow_mut()
            .push(FieldError::new(kind, path, msg));
    }

    /// All mistakes noted so far as one error.
    pub(crate) fn verdict(&self) -> Result<(), ApiError> {
        let errors = self.errors.borrow();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::Invalid(errors.clone()))
        }
    }

    /// The error for whoever finds a required field absent.
    pub(crate) fn incomplete(&self) -> ApiError {
        ApiError::Invalid(self.errors.borrow().clone())
    }
}

/// A text.
pub(crate) fn text(value: &Value) -> Result<String, Misfit> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| ("string_type", "Input should be a valid string".into()))
}

/// A text with something in it besides blanks.
pub(crate) fn filled(value: &Value) -> Result<String, Misfit> {
    let text = text(value)?;
    if text.trim().is_empty() {
        return Err(("string_too_short", "Input should not be empty".into()));
    }
    Ok(text)
}

/// A text or null.
pub(crate) fn nullable_text(value: &Value) -> Result<Option<String>, Misfit> {
    match value {
        Value::Null => Ok(None),
        value => text(value).map(Some),
    }
}

/// An identifier in any text form of a UUID.
pub(crate) fn uuid<T: FromStr>(value: &Value) -> Result<T, Misfit> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ("uuid_parsing", "Input should be a valid UUID".into()))
}

/// A flag, also as a word.
pub(crate) fn flag(value: &Value) -> Result<bool, Misfit> {
    let word = match value {
        Value::Bool(flag) => return Ok(*flag),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    match word.as_str() {
        "true" | "1" | "on" | "yes" | "t" | "y" => Ok(true),
        "false" | "0" | "off" | "no" | "f" | "n" => Ok(false),
        _ => Err(("bool_parsing", "Input should be a valid boolean".into())),
    }
}

/// A TCP port, 1 to 65535, also as text.
pub(crate) fn port(value: &Value) -> Result<u16, Misfit> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| ("int_range", "Input should be a port from 1 to 65535".into()))
}

/// A number of seconds, not negative, also as text.
pub(crate) fn seconds(value: &Value) -> Result<f64, Misfit> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| {
            let msg = "Input should be a number of seconds, 0 or more";
            ("float_parsing", msg.into())
        })
}

/// A whole number, not negative, also as text.
pub(crate) fn count(value: &Value) -> Result<u32, Misfit> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| {
            (
                "int_parsing",
                "Input should be a whole number from 0".into(),
            )
        })
}

/// A generation.
pub(crate) fn generation(value: &Value) -> Result<u64, Misfit> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    number.ok_or_else(|| ("int_type", "Input should be a whole number from 0".into()))
}

/// Entries of a page, 1 up to `most`, also as text.
pub(crate) fn limit(value: &Value, most: usize) -> Result<usize, Misfit> {
    let limit = count(value)
        .ok()
        .and_then(|count| usize::try_from(count).ok());
    limit
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| {
            (
                "int_range",
                format!("Input should be a whole number from 1 to {most}"),
            )
        })
}

/// A point in time: RFC 3339, where `+` may have become a blank on its way through a query string.
pub(crate) fn time(value: &Value) -> Result<DateTime<Utc>, Misfit> {
    let text = value.as_str().unwrap_or_default().trim().replace(' ', "+");
    DateTime::parse_from_rfc3339(&text)
        .map(|at| at.to_utc())
        .map_err(|_| {
            let fix = "Input should be a time such as 2026-11-20T15:36:50Z";
            ("datetime_parsing", fix.into())
        })
}

/// One of the words an enumeration is written with.
pub(crate) fn word<'a, T: serde::Deserialize<'a>>(value: &'a Value) -> Result<T, Misfit> {
    T::deserialize(value).map_err(|error| ("enum", error.to_string()))
}

/// A protocol; `http` and its kin.
pub(crate) fn protocol(value: &Value) -> Result<Protocol, Misfit> {
    word(value)
}

/// An object, or a text that holds one as JSON (which the WebUI sends, pitfalls.md B18).
pub(crate) fn object(value: &Value) -> Result<Map<String, Value>, Misfit> {
    let misfit = || {
        (
            "dict_type",
            "Input should be an object or a JSON text of one".into(),
        )
    };
    match value {
        Value::Object(map) => Ok(map.clone()),
        Value::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(Value::Null) => Ok(Map::new()),
            _ => Err(misfit()),
        },
        _ => Err(misfit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn query(text: &str) -> Params {
        Params(from_query(&format!("/x?{text}").parse().unwrap()).unwrap())
    }

    #[test]
    fn the_first_duplicate_wins_and_escapes_are_undone() {
        let params = query("app=one&app=two&redirect=%2Flab%3Fx%3D1+y");
        assert_eq!(params.fields().optional("app", text).unwrap(), "one");
        assert_eq!(
            params.fields().optional("redirect", text).unwrap(),
            "/lab?x=1 y"
        );
    }

    #[test]
    fn values_are_read_leniently() {
        for word in ["true", "True", "1", "on", "YES"] {
            assert_eq!(flag(&json!(word)), Ok(true));
        }
        assert_eq!(flag(&json!(0)), Ok(false));
        assert!(flag(&json!("maybe")).is_err());
        assert_eq!(port(&json!("123")), Ok(123));
        assert!(port(&json!(0)).is_err() && port(&json!(65536)).is_err());
        assert_eq!(object(&json!("{\"A\": \"b\"}")).unwrap()["A"], "b");
        assert!(object(&json!("[1]")).is_err());
        let at = time(&json!("2026-11-20T16:36:50 01:00")).unwrap();
        assert_eq!(at, time(&json!("2026-11-20T15:36:50Z")).unwrap());
        assert!(time(&json!("yesterday")).is_err() && time(&json!(3)).is_err());
        assert_eq!(limit(&json!("10"), 10), Ok(10));
        assert!(limit(&json!(0), 10).is_err() && limit(&json!(11), 10).is_err());
    }

    #[test]
    fn all_mistakes_come_together() {
        let params = Params(
            json!({"session": {"id": "x"}, "port": "y"})
                .as_object()
                .unwrap()
                .clone(),
        );
        let fields = params.fields();
        let session = fields.inner("session").unwrap();
        session.required("id", uuid::<patchbay_common::id::SessionId>);
        session.required("user_uuid", text);
        fields.optional("port", port);
        let Err(ApiError::Invalid(errors)) = fields.verdict() else {
            panic!("no errors")
        };
        let places: Vec<_> = errors.iter().map(|e| (e.kind, json!(e.loc))).collect();
        assert_eq!(
            places,
            [
                ("uuid_parsing", json!(["session", "id"])),
                ("missing", json!(["session", "user_uuid"])),
                ("int_range", json!(["port"])),
            ]
        );
    }

    #[test]
    fn bodies_are_json_or_yaml_objects() {
        let mut headers = HeaderMap::new();
        assert!(matches!(
            from_body(&headers, b"[1]"),
            Err(ApiError::BadRequest(_))
        ));
        assert!(matches!(
            from_body(&headers, b"{"),
            Err(ApiError::MalformedBody)
        ));
        headers.insert(CONTENT_TYPE, "text/yaml; charset=utf-8".parse().unwrap());
        let map = from_body(&headers, b"port: 80\nno_reuse: true\napp: x\n").unwrap();
        assert_eq!(
            Value::Object(map),
            json!({"port": "80", "no_reuse": "true", "app": "x"})
        );
    }
}
