// Keeps a page up to date: follows the events of the queue, fetches the page's own address again, and changes
// what differs. Without this script every page is complete; it is as old as its load.
"use strict";

(() => {
  const LEAST_MS = 2_000; // between two refreshes
  const LEAST_SHARE = 20; // of the time without refresh to the time of the last one: a busy console gets few
  const POLL_MS = 10_000; // between refreshes while there is no stream
  const TICK_MS = 15_000; // between updates of relative times
  const page = () => document.getElementById("main");
  const connection = document.getElementById("connection");
  const liveAddress = page()?.dataset.live;

  let stream = null;
  let refreshTimer = 0;
  let reopenTimer = 0;
  let againTimer = 0;
  let refreshing = null; // AbortController of the refresh that is under way
  let isDirty = false; // an event came while a refresh was under way
  let lastRefresh = Date.now();
  let lastTook = 0;
  let serverClock = clockOf(page());

  // Relative times

  function clockOf(main) {
    return { server: Number(main?.dataset.now) || Date.now() / 1_000, local: performance.now() };
  }

  function duration(seconds) {
    if (seconds < 10) return `${seconds.toFixed(1)} s`;
    if (seconds < 120) return `${seconds.toFixed(0)} s`;
    if (seconds < 7_200) return `${(seconds / 60).toFixed(0)} min`;
    if (seconds < 172_800) return `${(seconds / 3_600).toFixed(0)} h`;
    return `${(seconds / 86_400).toFixed(0)} d`;
  }

  function tick() {
    if (document.hidden) return;
    const now = serverClock.server + (performance.now() - serverClock.local) / 1_000;
    for (const element of document.querySelectorAll("time[datetime]")) {
      const age = now - Date.parse(element.dateTime) / 1_000;
      if (Number.isNaN(age)) continue;
      const text = age >= 0 ? `${duration(age)} ago` : `in ${duration(-age)}`;
      if (element.textContent !== text) element.textContent = text;
    }
  }

  // What the page says about its connection

  function say(text, isAway = false) {
    if (connection.textContent !== text) connection.textContent = text;
    connection.classList.toggle("away", isAway);
  }

  // Refresh

  const KEPT = new Set(["open", "checked", "value", "selected"]);

  function morph(next) {
    Idiomorph.morph(page(), next, {
      morphStyle: "outerHTML",
      ignoreActiveValue: true,
      callbacks: {
        // What the reader opened, chose or typed stays.
        beforeAttributeUpdated: (name, element) =>
          !KEPT.has(name) || element.type === "hidden" || element.localName === "progress" || element.localName === "option",
      },
    });
  }

  async function refresh() {
    if (document.hidden) return;
    if (refreshing) {
      isDirty = true;
      return;
    }
    isDirty = false;
    refreshing = new AbortController();
    const began = Date.now();
    const limit = setTimeout(() => refreshing?.abort(), 15_000);
    try {
      const response = await fetch(location.href, {
        headers: { Accept: "text/html" },
        cache: "no-store",
        signal: refreshing.signal,
      });
      const whole = new DOMParser().parseFromString(await response.text(), "text/html");
      const next = whole.getElementById("main");
      if (response.status === 401) {
        say("You are logged out: reload the page", true);
      } else if (!next || response.status === 403 || response.status >= 500) {
        say(next?.querySelector("h1")?.textContent ?? "The console cannot show this page now", true);
      } else {
        morph(next);
        document.title = whole.title;
        serverClock = clockOf(page());
        revealControls();
        countChecked();
        tick();
        again();
        if (!stream && connection.classList.contains("away")) {
          clearTimeout(reopenTimer); // the console is back
          open();
        }
        say(stream?.readyState === EventSource.OPEN ? "Live" : "Up to date");
      }
    } catch {
      say("Connection lost", true);
    } finally {
      clearTimeout(limit);
      refreshing = null;
      lastRefresh = Date.now();
      lastTook = lastRefresh - began;
      if (isDirty) soon();
    }
  }

  function soon() {
    if (refreshTimer || document.hidden) return;
    const pause = Math.max(LEAST_MS, lastTook * LEAST_SHARE);
    const least = Math.max(0, lastRefresh + pause - Date.now());
    refreshTimer = setTimeout(() => {
      refreshTimer = 0;
      refresh();
    }, least + Math.random() * pause * 0.2);
  }

  // A page with results of some seconds ago says after how many more it can show newer ones.
  function again() {
    clearTimeout(againTimer);
    const seconds = Number(page()?.dataset.again);
    if (seconds) againTimer = setTimeout(soon, seconds * 1_000);
  }

  // Stream

  function open() {
    if (!liveAddress || stream || document.hidden) return;
    stream = new EventSource(liveAddress);
    stream.onopen = soon; // what happened before it was open
    stream.onmessage = soon;
    stream.addEventListener("gap", soon);
    stream.addEventListener("back", soon);
    stream.addEventListener("away", () => say("Redis does not answer", true));
    stream.onerror = () => {
      if (stream?.readyState === EventSource.CLOSED) {
        // Refused, as while Redis is away: try again, not all pages at once.
        close();
        reopenTimer = setTimeout(open, POLL_MS / 2 + Math.random() * POLL_MS);
      }
      soon(); // finds out why, and says it
    };
  }

  function close() {
    clearTimeout(reopenTimer);
    stream?.close();
    stream = null;
  }

  function pauseOrGoOn() {
    if (document.hidden) {
      close();
      clearTimeout(refreshTimer);
      refreshTimer = 0;
    } else {
      open();
      refresh();
    }
  }

  // Controls

  function revealControls() {
    for (const element of document.querySelectorAll("[data-copy], [data-check-all]")) element.hidden = false;
  }

  function countChecked() {
    for (const form of document.querySelectorAll("form[data-bulk]")) {
      const id = form.getAttribute("id"); // form.id is a field of that name
      const boxes = [...document.querySelectorAll(`input[type=checkbox][form="${id}"][name]`)];
      const checked = boxes.filter((box) => box.checked).length;
      const output = form.querySelector("output");
      if (output) output.textContent = checked ? `${checked} selected` : "";
      const all = document.querySelector(`[data-check-all="${id}"]`);
      if (all) {
        all.checked = checked > 0 && checked === boxes.length;
        all.indeterminate = checked > 0 && checked < boxes.length;
      }
    }
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // no clipboard without https: ready for the keyboard
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 2_000);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
  });

  document.addEventListener("change", (event) => {
    const id = event.target.dataset?.checkAll;
    if (id) {
      for (const box of document.querySelectorAll(`input[type=checkbox][form="${id}"][name]`)) {
        box.checked = event.target.checked;
      }
    }
    countChecked();
  });

  document.addEventListener("keydown", (event) => {
    const details = event.key === "Escape" && event.target.closest?.("details.action[open]");
    if (!details) return;
    details.open = false;
    details.querySelector("summary").focus();
  });

  revealControls();
  countChecked();
  setInterval(tick, TICK_MS);
  if (liveAddress) {
    document.addEventListener("visibilitychange", pauseOrGoOn);
    addEventListener("pagehide", close);
    addEventListener("pageshow", (event) => event.persisted && pauseOrGoOn());
    setInterval(() => {
      if (stream?.readyState !== EventSource.OPEN && Date.now() - lastRefresh > POLL_MS) soon();
    }, POLL_MS / 2);
    open();
    again();
  }
})();
