// What the console does besides htmx: charts from figures, and parts that hold still while somebody works in them.
'use strict';

// What cannot be undone is asked about.
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-confirm]');
  if (button && !confirm(button.dataset.confirm)) event.preventDefault();
});

// A part that renews itself must not take the focus away from whoever is on one of its buttons.
document.addEventListener('htmx:beforeRequest', (event) => {
  const part = event.target;
  if (part.hasAttribute('data-calm') && part.matches(':focus-within')) event.preventDefault();
});

// A refusal is an answer that people should see, too.
document.addEventListener('htmx:beforeSwap', (event) => {
  const { xhr } = event.detail;
  if (xhr.status === 401) location.assign('/console/login');
  else if (xhr.status >= 400 && xhr.responseText) Object.assign(event.detail, { shouldSwap: true, isError: false });
});

const board = document.querySelector('[data-figures]');
if (board) watch(board);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function plot(id, series, range) {
  const place = document.getElementById(id);
  const axis = { stroke: colour('--muted'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line') } };
  const made = new uPlot({
    width: place.clientWidth, height: 150,
    series: [{ value: '{HH}:{mm}:{ss}' }, ...series.map((one) => ({ width: 2, ...one }))],
    axes: [axis, { ...axis, size: 44 }],
    scales: { y: { range: (_, low, high) => [0, Math.max(range, high || 0) * 1.1] } },
    legend: { live: false },
  }, [[], ...series.map(() => [])], place);
  new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: 150 })).observe(place);
  return made;
}

function nothing(id, text) {
  const note = document.createElement('p');
  note.className = 'none';
  note.textContent = text;
  document.getElementById(id).replaceChildren(note);
}

function watch(board) {
  const kept = 300; // ten minutes of samples
  const times = [], up = [], down = [], delay = [], loss = [];
  let joins = null, bitrate = null, quality = null;

  async function look() {
    if (document.hidden) return;
    const reply = await fetch(board.dataset.figures, { headers: { Accept: 'application/json' }, redirect: 'error' });
    if (!reply.ok) return;
    const { at, joins: curve, media } = await reply.json();
    drawJoins(at, curve);
    if (media === null) {
      if (!bitrate) for (const id of ['chart-bitrate', 'chart-quality']) nothing(id, 'The media server measures nothing here now.');
      return;
    }
    if (!bitrate) {
      document.getElementById('chart-bitrate').replaceChildren();
      document.getElementById('chart-quality').replaceChildren();
      bitrate = plot('chart-bitrate', [{ label: 'in', stroke: colour('--accent') }, { label: 'out', stroke: colour('--warn') }], 0.5);
      quality = plot('chart-quality', [{ label: 'worst RTT, ms', stroke: colour('--accent') }, { label: 'worst loss, %', stroke: colour('--danger') }], 5);
    }
    const worst = (name) => media.participants.reduce((most, one) => Math.max(most, one[name]), 0);
    for (const [list, value] of [[times, at], [up, media.up_bps / 1e6], [down, media.down_bps / 1e6], [delay, worst('rtt_ms')], [loss, worst('loss') * 100]]) {
      list.push(value);
      if (list.length > kept) list.shift();
    }
    bitrate.setData([times, up, down]);
    quality.setData([times, delay, loss]);
  }

  function drawJoins(at, curve) {
    if (curve.times.length === 0) {
      if (!joins) nothing('chart-joins', 'No session is running.');
      return;
    }
    if (!joins) {
      document.getElementById('chart-joins').replaceChildren();
      joins = plot('chart-joins', [{ label: 'there', stroke: colour('--accent'), fill: colour('--accent-soft'), paths: uPlot.paths.stepped({ align: 1 }) }], 2);
    }
    const last = curve.counts[curve.counts.length - 1];
    joins.setData([[curve.times[0] - 1, ...curve.times, at], [0, ...curve.counts, last]]);
  }

  // A missed look is made up by the next; the page stays usable without figures.
  const again = () => look().catch(() => {});
  again();
  setInterval(again, 2000);
}
