"""Forwards TCP ports: forward.py LISTEN CONNECT PORT... ends with its standard input."""

import asyncio
import sys

listen, connect, *ports = sys.argv[1:]


async def copy(source, sink):
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


def wire(port):
    async def serve(reader, writer):
        try:
            there, back = await asyncio.open_connection(connect, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, back), copy(there, writer))

    return serve


async def main():
    for port in map(int, ports):
        await asyncio.start_server(wire(port), listen, port)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
