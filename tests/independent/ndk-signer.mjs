// A remote signer (NIP-46) that is somebody else's whole: the backend of NDK. Its own key is the user's.
// Options as one JSON object in argv[2]: {relay, sk, state, secret}. Prints {npub, uri}; runs until it is killed.
import { readFileSync, writeFileSync, existsSync } from 'node:fs'
import WebSocket from 'ws'
globalThis.WebSocket ??= WebSocket
const { default: NDK, NDKNip46Backend, NDKPrivateKeySigner } = await import('@nostr-dev-kit/ndk')

const options = JSON.parse(process.argv[2])
const clients = new Set(existsSync(options.state) ? JSON.parse(readFileSync(options.state)) : [])
const signer = new NDKPrivateKeySigner(options.sk)
const ndk = new NDK({ explicitRelayUrls: [options.relay], signer })

class Backend extends NDKNip46Backend {
  async applyToken(client, token) {
    if (!clients.has(client) && token !== options.secret) throw new Error('wrong secret')
    clients.add(client)
    writeFileSync(options.state, JSON.stringify([...clients]))
  }
}

await ndk.connect(10_000)
const backend = new Backend(ndk, signer, async ({ pubkey }) => clients.has(pubkey), [options.relay])
await backend.start()
const user = await signer.user()
const query = new URLSearchParams({ relay: options.relay, secret: options.secret })
process.stdout.write(JSON.stringify({ npub: user.npub, uri: `bunker://${user.pubkey}?${query}` }) + '\n')
