use super::*;

#[test]
fn code_parts_are_cut_at_underscores() {
    let problem = Problem::from(&ApiError::Open(OpenError::NoWorker));
    assert_eq!(problem.code_parts(), ("agent", "access", "not-found"));
}

#[test]
fn pages_escape_what_they_quote() {
    let page = page(&Problem::from(&ApiError::NoRoute("/<script>".into())));
    assert!(page.contains("<h1>Backend.AI</h1><h2>Unknown URL path.</h2>"));
    assert!(page.contains("/&lt;script&gt;") && !page.contains("<script>"));
}

#[test]
fn absent_parts_are_left_out() {
    let body = to_vec(&Problem::from(&ApiError::NoSuch("circuit"))).unwrap();
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"type": "https://api.backend.ai/probs/object-not-found", "title": "E00002: No such circuit.", "error_code": "agent_read_not-found"}"#
    );
}
