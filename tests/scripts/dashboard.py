"""Looks at the tunnels' dashboard as a person does: in Chromium, at a desk and on a phone, in light
and in dark, by keyboard. Fails where anything is amiss; leaves screenshots.

usage: dashboard.py CHROMIUM URL FOLDER

CHROMIUM is driven over its DevTools pipe, so that nothing but Python and the browser is needed. At
URL a gateway must be running with a tunnel `web` that has carried requests, one that failed among
them.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

WAYS = [("desk", 1280, 900, False), ("phone", 390, 844, True)]


class Browser:
    """A Chromium with one page."""

    def __init__(self, program, profile):
        # The browser reads its orders at descriptor 3 and answers at 4.
        order_read, self.orders = os.pipe()
        self.answers, answer_write = os.pipe()
        # Two copies at numbers of no other use, since 3 and 4 may be among these pipes.
        ends = [os.dup2(fd, to) for fd, to in ((order_read, 61), (answer_write, 62))]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]} {ends[0]}<&- {ends[1]}>&-'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "chromium", program, "--headless=new", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (order_read, answer_write, *ends):
            os.close(fd)
        self.count, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def read(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.answers, 1 << 16)
            if not piece:
                sys.exit("the browser has ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.count += 1
        order = {"id": self.count, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.orders, json.dumps(order).encode() + b"\0")
        while True:
            message = self.read()
            if message.get("id") == self.count:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def value(self, expression):
        got = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in got:
            sys.exit(f"{expression}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def until(self, expression, what):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.value(expression):
                return
            time.sleep(0.05)
        sys.exit(f"not seen in time: {what}")

    def key(self, key, text=""):
        code = {"Tab": 9, "Escape": 27}.get(key, ord(key.upper()) if len(key) == 1 else 0)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode=code)

    def picture(self, file):
        shot = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    def end(self):
        os.close(self.orders)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def check(condition, what):
    if not condition:
        sys.exit(f"amiss: {what}")


def look(browser, url, folder, way, scheme):
    name, width, height, mobile = way
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=mobile)
    browser.call("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Page.navigate", url=url)
    browser.until("document.querySelectorAll('#recent tbody tr').length > 0", "requests")
    browser.until("samples.length > 5", "a line of rates")
    wide = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    check(wide <= 0, f"the page is {wide} pixels too wide ({name})")
    back = browser.value("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in back[4:-1].split(",")) < 200
    check(dark == (scheme == "dark"), f"{scheme} is shown on {back}")
    browser.picture(folder / f"{name}-{scheme}.png")


def keyboard(browser):
    focus = "document.activeElement.id || document.activeElement.textContent"
    browser.key("Tab")
    check(browser.value("document.activeElement.className") == "skip", "the first stop is no way past the head")
    stops = []
    for _ in range(12):
        browser.key("Tab")
        stops.append(browser.value(focus))
    for wanted in ("pause", "filter", "web", "failed"):
        check(wanted in stops, f"{wanted} cannot be reached by Tab: {stops}")
    # What has the focus keeps it when the page is brought up to date.
    browser.value("[...document.querySelectorAll('#tunnels a')].find(a => a.textContent == 'web').focus()")
    before = browser.value("document.getElementById('state').textContent")
    check(before == "live", f"the state is {before}")
    seen = browser.value("facts.now")
    browser.until(f"facts.now > {seen}", "an update")
    check(browser.value(focus) == "web", "an update takes the focus away")
    browser.key("/", "/")
    check(browser.value(focus) == "filter", "/ does not lead to the filter")
    for letter in "nobody":
        browser.key(letter, letter)
    browser.until("!document.getElementById('tunnels-empty').hidden", "what is said of no match")
    browser.key("Escape")
    browser.until("document.querySelectorAll('#tunnels tbody tr').length > 0", "all tunnels again")
    browser.key("p", "p")
    browser.until("document.getElementById('state').textContent == 'paused'", "a pause")
    browser.key("p", "p")
    browser.until("document.getElementById('state').textContent == 'live'", "an end of the pause")
    browser.value("document.getElementById('failed').click()")
    browser.until("[...document.querySelectorAll('#recent tbody tr')].every(row => "
                  "row.cells[1].textContent >= '500')", "errors only")
    check(browser.value("document.querySelectorAll('#recent tbody tr').length") > 0, "no errors are shown")


def names(browser):
    """Tables and controls say what they are, to whoever cannot see them."""
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    def named(role):
        return [node for node in tree if node.get("role", {}).get("value") == role
                and node.get("name", {}).get("value")]
    for role, least in (("region", 2), ("columnheader", 15), ("searchbox", 1), ("button", 1),
                        ("status", 0), ("link", 2)):
        check(len(named(role)) >= least, f"{role}: {len(named(role))} with a name")


def main():
    program, url, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        try:
            for way in WAYS:
                for scheme in ("light", "dark"):
                    look(browser, url, folder, way, scheme)
            look(browser, url, folder, WAYS[0], "light")
            names(browser)
            keyboard(browser)
            asked = [event["params"]["request"]["url"] for event in browser.events
                     if event.get("method") == "Network.requestWillBeSent"]
            strange = [one for one in asked if not one.startswith((url, "data:", "about:"))]
            check(not strange, f"the page asks elsewhere: {strange[:3]}")
            complaints = [event["params"] for event in browser.events if event.get("method") in
                          ("Runtime.exceptionThrown", "Log.entryAdded")]
            check(not complaints, f"the browser complains: {complaints[:2]}")
        finally:
            browser.end()
    print(f"the dashboard is as it should be; pictures are in {folder}")


if __name__ == "__main__":
    main()
