// A remote signer (NIP-46) that shares no code with Nexus: nostr-tools over ws.
// Options as one JSON object in argv[2]:
//   {relay, sk, signer, state, secret}    waits at bunker://; prints {uri, npub}
//   {relay, sk, signer, state, connect}   goes to a nostrconnect:// URI; prints {npub}
// `sk` is the user's key, `signer` the signer's own, `state` a file with the clients it knows. Runs until it is killed.
import { readFileSync, writeFileSync, existsSync } from 'node:fs'
import { finalizeEvent, getPublicKey, nip04, nip19, nip44 } from 'nostr-tools'
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay'
import WebSocket from 'ws'

useWebSocketImplementation(WebSocket)

const options = JSON.parse(process.argv[2])
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'))
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')
const user = bytes(options.sk)
const own = bytes(options.signer)
const me = getPublicKey(own)
const clients = new Set(existsSync(options.state) ? JSON.parse(readFileSync(options.state)) : [])

function remember(client) {
  clients.add(client)
  writeFileSync(options.state, JSON.stringify([...clients]))
}

const conversation = (peer) => nip44.getConversationKey(user, peer)

async function perform(client, method, params) {
  if (method === 'connect') {
    if (!clients.has(client) && params[1] !== options.secret) throw new Error('wrong secret')
    remember(client)
    return 'ack'
  }
  if (!clients.has(client)) throw new Error('unknown client')
  switch (method) {
    case 'ping':
      return 'pong'
    case 'get_public_key':
      return getPublicKey(user)
    case 'sign_event':
      return JSON.stringify(finalizeEvent(JSON.parse(params[0]), user))
    case 'nip44_encrypt':
      return nip44.encrypt(params[1], conversation(params[0]))
    case 'nip44_decrypt':
      return nip44.decrypt(params[1], conversation(params[0]))
    case 'nip04_encrypt':
      return nip04.encrypt(user, params[0], params[1])
    case 'nip04_decrypt':
      return nip04.decrypt(user, params[0], params[1])
    default:
      throw new Error(`unknown method ${method}`)
  }
}

const relay = await Relay.connect(options.relay)

async function say(client, message) {
  const content = nip44.encrypt(JSON.stringify(message), nip44.getConversationKey(own, client))
  const created_at = Math.floor(Date.now() / 1000)
  await relay.publish(finalizeEvent({ kind: 24133, created_at, tags: [['p', client]], content }, own))
}

async function hear(event) {
  try {
    const question = JSON.parse(nip44.decrypt(event.content, nip44.getConversationKey(own, event.pubkey)))
    try {
      const result = await perform(event.pubkey, question.method, question.params)
      await say(event.pubkey, { id: question.id, result })
    } catch (error) {
      await say(event.pubkey, { id: question.id, result: '', error: String(error.message ?? error) })
    }
  } catch {
    // Not for this signer.
  }
}

await new Promise((done) => {
  relay.subscribe([{ kinds: [24133], '#p': [me] }], { onevent: hear, oneose: done })
})
const npub = nip19.npubEncode(getPublicKey(user))
if (options.connect) {
  const uri = new URL(options.connect)
  const client = uri.host || uri.pathname.replace(/^\/+/, '')
  remember(client)
  await say(client, { id: 'hello', result: uri.searchParams.get('secret') })
  print({ npub })
} else {
  const query = new URLSearchParams({ relay: options.relay, secret: options.secret })
  print({ npub, uri: `bunker://${me}?${query}` })
}
