//! The requests' shapes.

use patchbay_common::circuit::Protocol;
use patchbay_common::id::{EndpointId, ProjectId, RouteId, UserId};
use patchbay_common::route::Route;
use patchbay_common::worker::AppFilter;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::params::{self, Fields, Misfit, Params};
use crate::circuits::EndpointOpening;
use crate::store::{HealthCheck, RouteChange};

/// The items of a bulk call, each read by `read`. All mistakes are answered together.
pub(super) fn items<T>(
    params: &Params,
    read: impl Fn(&Fields<'_>) -> Option<T>,
) -> Result<Vec<T>, ApiError> {
    let fields = params.fields();
    let items = fields.items("endpoints");
    let read: Option<Vec<T>> = items.and_then(|items| {
        // No short cut: the mistakes of later items are wanted too.
        let read: Vec<Option<T>> = items.iter().map(read).collect();
        read.into_iter().collect()
    });
    fields.verdict()?;
    read.ok_or_else(|| fields.incomplete())
}

/// The endpoint that an item of a bulk call is about.
pub(super) fn deployment(fields: &Fields<'_>) -> Option<EndpointId> {
    fields
        .optional("endpoint_id", params::uuid)
        .or_else(|| fields.required("deployment_id", params::uuid))
}

/// An endpoint to be opened.
pub(super) fn opening(fields: &Fields<'_>, id: EndpointId) -> Option<EndpointOpening> {
    let service_name = fields.required("service_name", params::filled);
    let tags = fields.inner("tags");
    let session = tags.as_ref().and_then(|tags| tags.inner("session"));
    let endpoint = tags.as_ref().and_then(|tags| tags.inner("endpoint"));
    let (session, endpoint) = (session?, endpoint?);
    let user: Option<UserId> = session.required("user_uuid", params::uuid);
    let project: Option<ProjectId> = session
        .optional("group_id", params::uuid)
        .or_else(|| session.required("project_id", params::uuid));
    let domain = session.required("domain_name", params::text);
    let tag = endpoint.optional("id", params::text);
    let runtime_variant = endpoint.optional("runtime_variant", params::text);
    let existing_url = endpoint.optional("existing_url", params::text);
    let open_to_public = fields.optional("open_to_public", params::flag);
    let health_check = health_check(fields);
    let properties = properties([
        ("session.user_uuid", user.map(|id| id.to_string())),
        ("session.project_id", project.map(|id| id.to_string())),
        ("session.domain_name", domain.clone()),
        ("endpoint.id", Some(tag.unwrap_or_else(|| id.to_string()))),
        ("endpoint.runtime_variant", runtime_variant.clone()),
        ("endpoint.existing_url", existing_url.clone()),
    ]);
    project.and(domain)?;
    Some(EndpointOpening {
        id,
        service_name: service_name?,
        user: Some(user?),
        runtime_variant,
        existing_url,
        open_to_public: open_to_public.unwrap_or(false),
        health_check,
        properties,
    })
}

fn properties(pairs: [(&str, Option<String>); 6]) -> Vec<AppFilter> {
    let filter = |(key, value): (&str, Option<String>)| {
        Some(AppFilter {
            key: key.to_owned(),
            value: value?,
        })
    };
    pairs.into_iter().filter_map(filter).collect()
}

/// The field `health_check`; absent and null are the same.
pub(super) fn health_check(fields: &Fields<'_>) -> Option<HealthCheck> {
    let check = fields.optional_inner("health_check")?;
    let seconds = |key: &str, usual: f64| check.optional(key, params::seconds).unwrap_or(usual);
    Some(HealthCheck {
        enable: check.optional("enable", params::flag).unwrap_or(false),
        interval: seconds("interval", 10.0),
        path: check
            .optional("path", params::text)
            .unwrap_or_else(|| "/health".into()),
        max_retries: check.optional("max_retries", params::count).unwrap_or(10),
        max_wait_time: seconds("max_wait_time", 15.0),
        expected_status_code: check
            .optional("expected_status_code", status)
            .unwrap_or(200),
        initial_delay: seconds("initial_delay", 60.0),
    })
}

fn status(value: &Value) -> Result<u16, Misfit> {
    let number = params::count(value).ok();
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|status| (101..1000).contains(status))
        .ok_or_else(|| {
            (
                "int_range",
                "Input should be a status from 101 to 999".into(),
            )
        })
}

/// The routes that an item of a bulk call lists.
pub(super) fn routes(fields: &Fields<'_>) -> Option<Vec<Route>> {
    let items = fields.items("routes")?;
    let read: Vec<Option<Route>> = items.iter().map(route).collect();
    read.into_iter().collect()
}

fn route(fields: &Fields<'_>) -> Option<Route> {
    let session_id = fields.required("session_id", params::uuid);
    let route_id: Option<RouteId> = fields.required("route_id", params::uuid);
    let kernel_host = fields.required("kernel_host", params::nullable_text);
    let kernel_port = fields.required("kernel_port", params::port);
    Some(Route {
        route_id: Some(route_id?),
        session_id: session_id?,
        session_name: None,
        kernel_host: kernel_host?,
        kernel_port: kernel_port?,
        protocol: Protocol::Http,
        traffic_ratio: 1.0,
    })
}

/// An item of a call that drops routes.
pub(super) fn dropped(fields: &Fields<'_>) -> Option<(EndpointId, RouteChange)> {
    let ids = fields.required("route_ids", |value| {
        let ids = value.as_array().map(|ids| ids.iter().map(params::uuid));
        ids.ok_or_else(|| ("list_type", "Input should be a list of UUIDs".to_owned()))?
            .collect::<Result<Vec<RouteId>, Misfit>>()
    });
    deployment(fields)
        .zip(ids)
        .map(|(id, ids)| (id, RouteChange::Unregister(ids)))
}
