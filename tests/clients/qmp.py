"""A program that leads its QEMU by qemu.qmp: tests/clients/qmp.py SOCKET QEMU [QEMU-OPTIONS]

It starts QEMU stopped, lets it go, says "running", and quits it when a line comes in.
"""

import asyncio
import sys

from qemu.qmp import QMPClient


async def main(socket, qemu, *options):
    client = QMPClient("guest")
    # It listens, and QEMU calls: so nobody has to guess when QEMU's socket is there.
    await client.start_server(socket)
    guest = await asyncio.create_subprocess_exec(
        qemu, *options, "-S", "-chardev", f"socket,id=qmp,path={socket}", "-mon", "chardev=qmp,mode=control")
    await client.accept()
    before = await client.execute("query-status")
    with client.listener("RESUME") as resumed:
        await client.execute("cont")
        await resumed.get()
    cards = await client.execute("human-monitor-command", {"command-line": "info network"})
    print(before["status"], "then running with", cards, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    with client.listener("SHUTDOWN") as ended:
        await client.execute("quit")
        print("ended by", (await ended.get())["data"]["reason"], flush=True)
    try:
        await client.disconnect()
    except EOFError:
        # QEMU was quicker.
        pass
    return await guest.wait()


sys.exit(asyncio.run(main(*sys.argv[1:])))
