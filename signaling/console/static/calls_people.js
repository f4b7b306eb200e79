// The panel of people in a call: who is there, who waits in the lobby, who asks for a right; and for those who may
// decide, the buttons to do so. Returns what the page around it needs to know.

const byId = (id) => document.getElementById(id);

export async function drawPeople(api, path, reply, { act, me }) {
  const may = (capability) => reply.own_capabilities.includes(capability);
  const list = async (below, wanted = true) => (wanted ? (await api.ask('GET', `${path}${below}?limit=100`).catch(() => ({ items: [] }))).items : []);
  const [people, requests, lobby] = await Promise.all([
    list('/participants'),
    list('/permission-requests'),
    list('/lobby', may('lobby.admit')),
  ]);
  const names = new Map(people.map((one) => [one.user_id, one.name]));
  const others = may('permission.grant') ? requests.filter((one) => one.user_id !== me) : [];

  fill('people-list', people, (one) => {
    const buttons = [];
    if (one.user_id !== me) {
      if (may('participant.mute')) buttons.push(['Mute', () => act('POST', '/participants/mute', { user_ids: [one.user_id], kinds: ['audio'] })]);
      if (may('permission.grant') && one.capabilities && !one.capabilities.includes('media.audio')) {
        buttons.push(['Let speak', () => act('PATCH', `/participants/${encodeURIComponent(one.user_id)}/capabilities`, { grant: ['media.audio'] })]);
      }
      if (may('participant.kick')) buttons.push(['Remove', () => act('POST', `/participants/${encodeURIComponent(one.user_id)}/kick`, {})]);
    }
    return row(one.user_id === me ? `${one.name} (you)` : one.name, one.state === 'joined' ? one.role : one.state, buttons);
  });
  fill('request-list', others, (one) => row(
    names.get(one.user_id) || one.user_id,
    `asks for ${one.capabilities.map((name) => ({ 'media.audio': 'speaking', 'media.video': 'video', 'media.screen': 'the screen' }[name] || name)).join(', ')}`,
    [['Grant', () => act('POST', `/permission-requests/${one.id}/grant`, {})], ['Deny', () => act('POST', `/permission-requests/${one.id}/deny`, {})]],
  ));
  fill('lobby-list', lobby, (one) => row(one.user_id, 'waits', [
    ['Admit', () => act('POST', `/lobby/${one.id}/admit`, {})], ['Deny', () => act('POST', `/lobby/${one.id}/deny`, {})],
  ]));
  byId('requests-box').hidden = others.length === 0;
  byId('lobby-box').hidden = lobby.length === 0;
  return { count: people.length, waiting: others.length + lobby.length, mine: requests.find((one) => one.user_id === me) || null };
}

// Redraws a list, and keeps the focus on the button that somebody is on.
function fill(id, items, make) {
  const place = byId(id);
  const kept = place.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
  place.replaceChildren(...items.map(make));
  if (kept) [...place.querySelectorAll('button')].find((one) => one.getAttribute('aria-label') === kept)?.focus();
}

function row(name, text, buttons) {
  const item = document.createElement('li');
  const line = document.createElement('div');
  const who = document.createElement('span');
  const what = document.createElement('small');
  who.className = 'name';
  who.textContent = name;
  what.textContent = text;
  line.append(who, what);
  item.append(line);
  if (buttons.length) {
    const actions = document.createElement('div');
    actions.className = 'row';
    actions.append(...buttons.map(([label, run]) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = label;
      button.setAttribute('aria-label', `${label}: ${name}`);
      button.addEventListener('click', run);
      return button;
    }));
    item.append(actions);
  }
  return item;
}
