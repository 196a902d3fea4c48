//! What clients may do.

use super::{Case, LAST};

/// A request that ends its connection.
fn last(line: &str, headers: &str) -> String {
    format!("{line}\r\nHost: h\r\nConnection: close\r\n{headers}\r\n")
}

fn get(name: &'static str, headers: &str) -> Case {
    Case::new(name, last("GET /case HTTP/1.1", headers))
}

/// A body in these chunks, and another request behind it.
fn chunked(name: &'static str, coding: &str, body: &str) -> Case {
    let head = format!("POST /case HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {coding}\r\n");
    // Another engine may end the connection rather than take the next request.
    Case::new(name, format!("{head}\r\n{body}{LAST}")).gives("200 [200]", "ok")
}

/// All cases.
pub(super) fn cases() -> Vec<Case> {
    [
        lines(),
        targets(),
        headers(),
        bodies(),
        chunks(),
        connections(),
    ]
    .concat()
}

fn lines() -> Vec<Case> {
    vec![
        Case::new("9110, 9.3.1: GET", last("GET /case HTTP/1.1", ""))
            .app_gets(&["GET /case HTTP/1.1"]),
        Case::new("9110, 9.3.2: HEAD", last("HEAD /case HTTP/1.1", ""))
            .answered("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
            .gives("200", ""),
        Case::new(
            "9110, 9.1: a method nobody has heard of",
            last("FIND /case HTTP/1.1", ""),
        )
        .app_gets(&["FIND /case"]),
        Case::new(
            "9110, 9.1: methods are told by case",
            last("get /case HTTP/1.1", ""),
        )
        .app_gets(&["get /case HTTP/1.1"]),
        Case::new(
            "9112, 2.2: an empty line before a request",
            format!("\r\n{}", last("GET /case HTTP/1.1", "")),
        ),
        Case::new(
            "9112, 2.2: an empty line between requests",
            format!("GET /case HTTP/1.1\r\nHost: h\r\n\r\n\r\n{LAST}"),
        )
        .gives("200 [200]", "ok"),
        Case::new(
            "9112, 2.5: version 1.0",
            "GET /case HTTP/1.0\r\nHost: h\r\n\r\n",
        ),
        Case::new(
            "9112, 3.2: version 1.0 without Host",
            "GET /case HTTP/1.0\r\n\r\n",
        ),
        Case::new(
            "9112, 9.3: version 1.0 that keeps its connection",
            format!("GET /case HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n{LAST}"),
        )
        .gives("200 [200]", "ok"),
        Case::new(
            "9112, 7: version 1.0 is not answered in chunks",
            "GET /case HTTP/1.0\r\nHost: h\r\n\r\n",
        )
        .answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .gives("200", "hello")
        .nobody_gets(&["Transfer-Encoding"]),
        Case::new(
            "9112, 2.1: a head byte by byte",
            last("GET /case HTTP/1.1", "X: y\r\n"),
        )
        .trickling(),
        Case::new(
            "9110, 4.1: a target of 8,000 bytes",
            last(&format!("GET /{} HTTP/1.1", "x".repeat(7_999)), ""),
        ),
    ]
}

fn targets() -> Vec<Case> {
    vec![
        Case::new(
            "9112, 3.2.2: a whole address",
            last("GET http://h/case?x=y HTTP/1.1", ""),
        )
        .app_gets(&["GET /case?x=y HTTP/1.1", "host: h\r\n"]),
        Case::new(
            "9112, 3.2.2: a whole address counts, Host does not",
            "GET http://h/case HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n",
        )
        .gives("200|400", "ok")
        .nobody_gets(&["host: other"]),
        Case::new(
            "9112, 3.2.4: all of the server",
            last("OPTIONS * HTTP/1.1", ""),
        )
        .app_gets(&["OPTIONS * HTTP/1.1"]),
        Case::new(
            "9110, 4.2.3: escapes stay as they are",
            last("GET /a%2Fb%20c%2e/%zz HTTP/1.1", ""),
        )
        .app_gets(&["GET /a%2Fb%20c%2e/%zz HTTP/1.1"]),
        Case::new(
            "9110, 4.2.3: dots stay as they are",
            last("GET /a/../b/./c HTTP/1.1", ""),
        )
        .app_gets(&["GET /a/../b/./c HTTP/1.1"]),
        Case::new(
            "3986, 3.3: two slashes stay two",
            last("GET //a//b HTTP/1.1", ""),
        )
        .app_gets(&["GET //a//b HTTP/1.1"]),
        Case::new("3986, 3.4: an empty query", last("GET /case? HTTP/1.1", ""))
            .app_gets(&["GET /case? HTTP/1.1"]),
        Case::new(
            "3986, 3.4: a question within a query",
            last("GET /case?a=?&b=/ HTTP/1.1", ""),
        )
        .app_gets(&["GET /case?a=?&b=/ HTTP/1.1"]),
        Case::new(
            "3986, 3.3: parameters",
            last("GET /case;v=1,2!$&'()*+=:@ HTTP/1.1", ""),
        )
        .app_gets(&["GET /case;v=1,2!$&'()*+=:@ HTTP/1.1"]),
        Case::new(
            "9110, 7.2: a Host with a port",
            "GET /case HTTP/1.1\r\nHost: h:8080\r\nConnection: close\r\n\r\n",
        )
        .app_gets(&["host: h:8080\r\n"]),
        Case::new(
            "9110, 7.2: a Host that is an address",
            "GET /case HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
        )
        .app_gets(&["host: [::1]:80\r\n"]),
    ]
}

fn headers() -> Vec<Case> {
    let latin =
        [&b"GET /case HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: caf\xe9\r\n\r\n"[..]].concat();
    vec![
        get(
            "9112, 5.1: white space around a value",
            "X-A:\t  y \t \r\nX-B:z\r\n",
        )
        .app_gets(&["x-a:", "x-b:"]),
        get("9110, 5.5: an empty value", "X-A:\r\nX-B: \r\n").app_gets(&["x-a:", "x-b:"]),
        get("9110, 5.5: white space within a value", "X-A: a \t b\r\n")
            .app_gets(&["x-a: a \t b\r\n"]),
        get(
            "9110, 5.3: a header twice, in order",
            "X-A: 1\r\nX-A: 2\r\n",
        )
        .app_gets(&["x-a: 1\r\n", "x-a: 2\r\n"]),
        get("9110, 5.1: all signs of a name", "X!#$%&'*+-.^_`|~9: y\r\n")
            .app_gets(&["x!#$%&'*+-.^_`|~9: y\r\n"]),
        Case::new("9110, 5.5: a value that is not ASCII", latin),
        get(
            "9110, 5.6.4: quotes and brackets in a value",
            "X-A: \"a, b\" (c) \\d\r\n",
        )
        .app_gets(&["x-a: \"a, b\" (c) \\d\r\n"]),
        get(
            "9110, 7.6.1: what Connection names stays here",
            "X-A: hop\r\nConnection: X-A\r\n",
        )
        .nobody_gets(&["x-a: hop"]),
        get(
            "9110, 7.6.1: what is of one connection stays here",
            "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n",
        )
        .nobody_gets(&["timeout=5", "proxy-connection"]),
        get(
            "9110, 7.6.1: nobody can have Host taken out",
            "Connection: Host, X-B\r\nX-B: hop\r\n",
        )
        .gives("200|400", "ok")
        .nobody_gets(&["x-b: hop"]),
        get(
            "9110, 14: a range is the app's to understand",
            "Range: bytes=0-1\r\nIf-Range: \"x\"\r\n",
        )
        .app_gets(&["range: bytes=0-1\r\n", "if-range: \"x\"\r\n"]),
        get(
            "6265, 5.4: cookies are the app's",
            "Cookie: a=b; c=\"d e\"\r\n",
        )
        .app_gets(&["a=b; c=\"d e\""]),
    ]
}

fn bodies() -> Vec<Case> {
    let post = |name, framing: &str, body: &str| {
        Case::new(
            name,
            format!("{}{body}", last("POST /case HTTP/1.1", framing)),
        )
    };
    vec![
        post(
            "9112, 6.2: a body by its length",
            "Content-Length: 5\r\n",
            "hello",
        )
        .app_gets(&["\r\n\r\nhello"]),
        post("9112, 6.2: a body of nothing", "Content-Length: 0\r\n", "")
            .app_gets(&["content-length: 0\r\n"]),
        post("9112, 6.3: no body and no length", "", ""),
        post(
            "9112, 6.2: a body that looks like a request",
            "Content-Length: 31\r\n",
            "GET /inner HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        Case::new(
            "9110, 9.3.1: GET with a body",
            format!(
                "{}hello",
                last("GET /case HTTP/1.1", "Content-Length: 5\r\n")
            ),
        )
        .app_gets(&["hello"]),
        Case::new(
            "9110, 9.3.5: DELETE with a body",
            format!(
                "{}hello",
                last("DELETE /case HTTP/1.1", "Content-Length: 5\r\n")
            ),
        )
        .app_gets(&["hello"]),
        Case::new(
            "9112, 2.1: a body byte by byte",
            format!(
                "{}hello",
                last("POST /case HTTP/1.1", "Content-Length: 5\r\n")
            ),
        )
        .trickling()
        .app_gets(&["hello"]),
        post(
            "9110, 10.1.1: a body that waits to be asked for",
            "Content-Length: 5\r\nExpect: 100-continue\r\n",
            "hello",
        )
        .gives("[100] 200", "ok")
        .app_gets(&["hello"]),
    ]
}

fn chunks() -> Vec<Case> {
    vec![
        chunked(
            "9112, 7.1: a body in chunks",
            "chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        )
        .app_gets(&["hello"]),
        chunked(
            "9112, 7.1: a size in capitals",
            "chunked",
            "A\r\n0123456789\r\n0\r\n\r\n",
        )
        .app_gets(&["0123456789"]),
        chunked(
            "9112, 7.1: a size with zeros in front",
            "chunked",
            "0005\r\nhello\r\n000\r\n\r\n",
        )
        .app_gets(&["hello"]),
        chunked(
            "9112, 7.1.1: an extension",
            "chunked",
            "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        )
        .app_gets(&["hello"]),
        chunked(
            "9112, 7.1.1: an extension in quotes",
            "chunked",
            "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n",
        )
        .app_gets(&["hello"]),
        chunked(
            "9112, 7.1.2: trailers",
            "chunked",
            "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .app_gets(&["hello"]),
        chunked(
            "9112, 7.1.2: trailers are no headers",
            "chunked",
            "0\r\nContent-Length: 9\r\nHost: other\r\n\r\n",
        )
        .nobody_gets(&["host: other\r\nx-"]),
        chunked(
            "9112, 7.1: many small chunks",
            "chunked",
            &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(50)),
        ),
        chunked(
            "9112, 7: the coding's name in capitals",
            "Chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        )
        .app_gets(&["hello"]),
        chunked(
            "9112, 7.1: chunks byte by byte",
            "chunked",
            "5\r\nhello\r\n3;x\r\nyou\r\n0\r\nA: b\r\n\r\n",
        )
        .trickling(),
        chunked(
            "9112, 7.1: a chunk that looks like an end",
            "chunked",
            "5\r\n0\r\n\r\n\r\n0\r\n\r\n",
        ),
    ]
}

fn connections() -> Vec<Case> {
    let plain = "GET /case HTTP/1.1\r\nHost: h\r\n\r\n";
    vec![
        Case::new("9112, 9.3: a connection is kept", format!("{plain}{LAST}"))
            .gives("200 [200]", "ok"),
        Case::new(
            "9112, 9.6: nothing follows the last request",
            format!(
                "{}GET /late HTTP/1.1\r\nHost: h\r\n\r\n",
                last("GET /case HTTP/1.1", "")
            ),
        )
        .nobody_gets(&["/late"]),
        Case::new(
            "9112, 9.6: close among others, in capitals",
            "GET /case HTTP/1.1\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n",
        ),
        Case::new(
            "9112, 9.3: two words on a connection, close counts",
            "GET /case HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
        ),
    ]
}
