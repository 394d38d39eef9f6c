// A Nostr client that shares no code with Nexus: nostr-tools over ws.
// One command in argv[2], its options as one JSON object in argv[3]; one JSON object per line on stdout.
//   keys                                        -> {sk, pk, npub}
//   send  {relay, sk, to, text, kind, tags?}    -> {id, rumor?}      (kind 4 is encrypted, 17 a NIP-17 gift wrap)
//   wait  {relay, sk, from, kind: 1|4|17, to?, ms} -> {id, text}     (to: the event that is answered)
//   query {relay, sk?, filter, ms}              -> one line per stored event
//   find  {origin, address}                     -> {pk, relays}      (NIP-05, over `origin` instead of https)
//   zap   {origin, sk, address, to, msat, text, relay} -> {pr, request, service}   (NIP-57: asks for the invoice)
//   spoof {relay, sk, request, pr}              -> {id}              (a receipt of nobody's service)
import { generateSecretKey, getPublicKey, finalizeEvent, verifyEvent, nip04, nip05, nip19, nip57, nip59 } from 'nostr-tools'
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay'
import WebSocket from 'ws'

useWebSocketImplementation(WebSocket)

const [command, json] = process.argv.slice(2)
const options = json ? JSON.parse(json) : {}
const bytes = (key) => (key.startsWith('nsec1') ? nip19.decode(key).data : fromHex(key))
const fromHex = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'))
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')
const sk = options.sk ? bytes(options.sk) : undefined

async function connect() {
  const relay = await Relay.connect(options.relay)
  if (sk) relay.onauth = async (template) => finalizeEvent(template, sk)
  return relay
}

// Relays that guard messages ask for NIP-42 first: the challenge comes on connecting.
async function authenticate(relay) {
  if (!sk) return
  for (let turn = 0; turn < 20 && !relay.challenge; turn++) await new Promise((done) => setTimeout(done, 25))
  if (relay.challenge) await relay.auth(async (template) => finalizeEvent(template, sk))
}

const rTag = (event, id) => event.tags.some((tag) => tag[0] === 'e' && tag[1] === id)

async function send() {
  const relay = await connect()
  await authenticate(relay)
  const created_at = Math.floor(Date.now() / 1000)
  if (options.kind === 17) {
    const rumor = nip59.createRumor({ kind: 14, created_at, tags: [['p', options.to]], content: options.text }, sk)
    const wrap = nip59.createWrap(nip59.createSeal(rumor, sk, options.to), options.to)
    await relay.publish(wrap)
    print({ id: wrap.id, rumor: rumor.id })
  } else {
    const content = options.kind === 4 ? nip04.encrypt(sk, options.to, options.text) : options.text
    const tags = [['p', options.to], ...(options.tags ?? [])]
    const event = finalizeEvent({ kind: options.kind, created_at, tags, content: await content }, sk)
    await relay.publish(event)
    print({ id: event.id })
  }
  relay.close()
}

async function wait() {
  const me = getPublicKey(sk)
  const relay = await connect()
  await authenticate(relay)
  const filter =
    options.kind === 17
      ? { kinds: [1059], '#p': [me] }
      : options.kind === 4
        ? { kinds: [4], authors: [options.from], '#p': [me] }
        : { kinds: [1], authors: [options.from], '#e': [options.to] }
  await new Promise((done, fail) => {
    const timer = setTimeout(() => fail(new Error('no answer in time')), options.ms ?? 30000)
    relay.subscribe([filter], {
      onevent: async (event) => {
        if (!verifyEvent(event)) return
        let text = event.content
        let id = event.id
        if (options.kind === 4) text = await nip04.decrypt(sk, event.pubkey, event.content)
        if (options.kind === 17) {
          const rumor = nip59.unwrapEvent(event, sk)
          if (rumor.pubkey !== options.from) return
          text = rumor.content
          id = rumor.id
        } else if (options.to && options.kind === 1 && !rTag(event, options.to)) return
        if ((options.not ?? []).includes(id)) return
        print({ id, text, kind: event.kind })
        clearTimeout(timer)
        done()
      },
    })
  })
  relay.close()
}

async function publish() {
  const relay = await connect()
  await relay.publish(options.event)
  print({ id: options.event.id })
  relay.close()
}

// What is asked of https://<the address's host> goes to `origin`, which speaks http on this machine.
const there = (url, settings) => fetch(String(url).replace(/^https:\/\/[^/]+/, options.origin), { ...settings, redirect: 'follow' })

async function find() {
  nip05.useFetchImplementation(there)
  const found = await nip05.queryProfile(options.address)
  if (!found) throw new Error('nobody has this name')
  print({ pk: found.pubkey, relays: found.relays ?? [] })
}

async function zap() {
  nip57.useFetchImplementation(there)
  const metadata = { kind: 0, content: JSON.stringify({ lud16: options.address }), tags: [], pubkey: options.to }
  const endpoint = await nip57.getZapEndpoint(metadata)
  if (!endpoint) throw new Error('this address takes no zaps')
  const template = nip57.makeZapRequest({
    pubkey: options.to,
    amount: options.msat,
    comment: options.text,
    relays: [options.relay],
  })
  const request = JSON.stringify(finalizeEvent(template, sk))
  const wrong = nip57.validateZapRequest(request)
  if (wrong) throw new Error(wrong)
  const url = `${endpoint}?amount=${options.msat}&nostr=${encodeURIComponent(request)}`
  const answer = await (await fetch(url)).json()
  if (answer.status === 'ERROR') throw new Error(answer.reason)
  const [name, host] = options.address.split('@')
  const said = await (await there(`https://${host}/.well-known/lnurlp/${name}`)).json()
  print({ pr: answer.pr, request, service: said.nostrPubkey })
}

async function spoof() {
  const template = nip57.makeZapReceipt({ zapRequest: options.request, bolt11: options.pr, paidAt: new Date() })
  const event = finalizeEvent(template, sk)
  const relay = await connect()
  await relay.publish(event)
  print({ id: event.id })
  relay.close()
}

async function query() {
  const relay = await connect()
  await authenticate(relay)
  await new Promise((done) => {
    const timer = setTimeout(done, options.ms ?? 5000)
    relay.subscribe([options.filter], {
      onevent: (event) => print({ ...event, verified: verifyEvent(event) }),
      oneose: () => {
        clearTimeout(timer)
        done()
      },
    })
  })
  relay.close()
}

try {
  if (command === 'keys') {
    const key = generateSecretKey()
    const pk = getPublicKey(key)
    print({ sk: Buffer.from(key).toString('hex'), pk, npub: nip19.npubEncode(pk) })
  } else if (command === 'send') await send()
  else if (command === 'wait') await wait()
  else if (command === 'query') await query()
  else if (command === 'publish') await publish()
  else if (command === 'find') await find()
  else if (command === 'zap') await zap()
  else if (command === 'spoof') await spoof()
  else throw new Error(`unknown command: ${command}`)
  process.exit(0)
} catch (error) {
  process.stderr.write(`${error?.message ?? error}\n`)
  process.exit(1)
}
