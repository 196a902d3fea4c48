//! What a line of the table of operations says.

use serde_json::{Value, json};

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Holders of the API's secret.
    Secret,
    /// The same, unless `allow_unauthorized_configure_request` is set.
    SecretUnlessAllowed,
    /// The networks of `metric_access_allowed_hosts`.
    Networks,
}

/// What comes back when all is well.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// JSON of this schema.
    Json(&'static str),
    /// A text of this media type.
    Text(&'static str, &'static str),
    /// The way to an app: JSON or a redirect.
    Lead,
}

/// A parameter of the query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// A word of `schemas::word`.
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

pub(super) const fn must(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        required: true,
        about,
    }
}

pub(super) const fn may(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        required: false,
        about,
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) access: Access,
    pub(super) query: &'static [Parameter],
    pub(super) body: Option<&'static str>,
    pub(super) answer: Answer,
    /// Beside those that follow from access, path and parameters.
    pub(super) refusals: &'static [u16],
}

impl Operation {
    pub(super) const fn new(
        method: &'static str,
        path: &'static str,
        tag: &'static str,
        answer: Answer,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            tag,
            summary,
            access: Access::Secret,
            query: &[],
            body: None,
            answer,
            refusals: &[],
        }
    }

    pub(super) const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    pub(super) const fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    pub(super) const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    pub(super) const fn refusals(mut self, statuses: &'static [u16]) -> Self {
        self.refusals = statuses;
        self
    }

    /// A name for generated clients: `delete_api_circuit_id`.
    pub(super) fn id(&self) -> String {
        let words = self
            .path
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        std::iter::once(self.method)
            .chain(words)
            .collect::<Vec<_>>()
            .join("_")
    }
}

/// What reads.
pub(super) const fn get(
    path: &'static str,
    tag: &'static str,
    answer: Answer,
    summary: &'static str,
) -> Operation {
    Operation::new("get", path, tag, answer, summary)
}

/// What is sent.
pub(super) const fn post(
    path: &'static str,
    tag: &'static str,
    answer: Answer,
    summary: &'static str,
) -> Operation {
    Operation::new("post", path, tag, answer, summary)
}

/// The path whose segments are passed on as they are.
pub(super) const ADD: &str = "/v2/proxy/{token}/{session}/add";

/// How a segment of a path is written.
pub(super) fn segment(path: &str) -> Value {
    if path == ADD {
        json!({"type": "string", "minLength": 1})
    } else if path.starts_with("/api/services/") {
        json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"})
    } else {
        json!({"type": "string", "format": "uuid"})
    }
}

/// Why a request is answered with a status.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        400 => "parameters are missing or wrong; `data.errors` lists them",
        401 => "no credential, or not the right one",
        403 => "not for this caller",
        404 => "there is no such thing",
        409 => "the slot belongs to another circuit, the route to another service",
        503 => "no worker is available, or it does not respond",
        _ => "refused",
    }
}
