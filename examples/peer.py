"""Takes the service of the example `http` over, and gives it on: python3 examples/peer.py CONTROL_SOCKET (Python 3.9).
The happy path of protocol.md, whose requirements are [M19]. docs/writing-a-peer.md lists what production needs more."""
import contextlib, fcntl, json, os, select, socket, sys, time
us = {"pid": os.getpid(), "generation": 1, "requests": 0}  # what every request is answered with
serving = []  # the HTTP listener, as long as the service is ours
socket.setdefaulttimeout(5)  # for whoever is slow in the middle of something; sets O_NONBLOCK as well [M9]

def send(sock, files=(), **frame):
    line = json.dumps(frame).encode() + b"\n"
    socket.send_fds(sock, [line[:1]], [file.fileno() for file in files])  # they ride on the first byte [M19],
    sock.sendall(line[1:])  # and the rest goes without them [M20]

def serve(other, until):  # answers requests, one at a time, until there is something to read from the other socket
    while other not in (ready := select.select([other, *serving], [], [], max(0, until - time.monotonic()))[0]):
        if not ready or time.monotonic() > until: raise TimeoutError("the other side is silent")
        with contextlib.suppress(OSError), ready[0].accept()[0] as client, client.makefile("rb") as request:
            if list(iter(lambda: request.readline().strip(), b"")):  # the lines before the first empty one
                us["requests"] += 1
                client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + json.dumps(us).encode())

def receive(sock, *kinds, ms=60000):  # the next frame, which has to be of one of these kinds, and its descriptors
    serve(sock, time.monotonic() + ms / 1000)
    first, fds, flags, _ = socket.recv_fds(sock, 1, 253, socket.MSG_CMSG_CLOEXEC)  # [M22]
    files = [open(fd, "rb", buffering=0) for fd in fds]  # close themselves when nobody wants them [M24, M26]
    frame = json.loads(first + sock.makefile("rb", buffering=0).readline(131071))  # and nothing of the next [M11, M23]
    riders = frame.get("pidfd", len(frame.get("entries", [])) or frame.get("state") is not None)  # [M24, M25]
    if frame["type"] not in kinds or flags & socket.MSG_CTRUNC or len(files) != riders: raise ValueError(frame)
    return frame, files

def state():
    memfd = open(os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb", buffering=0)
    memfd.write(b"\xfd" + us["requests"].to_bytes(8, "little"))  # a u64 as bincode writes it, after a mark
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, 15)  # SEAL, SHRINK, GROW and WRITE [M60]
    return {"state": {**offer["state"], "length": 9}, "files": [memfd]}  # of the shape that it had [M142]

def count(frame, files):  # below 251 bincode writes one byte without a mark; read at an offset of our own [M61, M62]
    return int.from_bytes(os.pread(files[0].fileno(), 8, int(frame["state"]["length"] > 1)), "little") if files else 0

(old := socket.socket(socket.AF_UNIX)).connect(sys.argv[1])
receive(old, "hello")
send(old, type="receive", protocol={"min": 1, "max": 1}, pid=us["pid"], version="peer.py", schemas=[0])
offer, _ = receive(old, "offer")
given = []
for number in range(offer["batches"]):
    batch, riders = receive(old, "descriptors")
    given += [(e, f) for e, f in zip(batch["entries"], riders) if e["name"] != "@owner"]  # it locks nothing [M125]
    send(old, type="received", batch=number)
entries, files = map(list, zip(*given))
offer.update(batches=1, descriptors=len(files), pidfd=True)  # as it gives them on
sockets = {(e["name"], e["kind"]): socket.socket(fileno=os.dup(f.fileno())) for e, f in given}
control, http = sockets["@control", "unix_listener"], sockets["http", "tcp_listener"]  # or this fails [M56]
us.update(generation=offer["generation"] + 1, requests=count(*receive(old, "state")))
send(old, type="ready")
us["requests"] = max(us["requests"], count(*receive(old, "release")))  # the whole count once more, if there is a state
send(old, type="active")
serving.append(http)  # not before the release [M53]
print("serving", json.dumps(us), flush=True)
with contextlib.suppress(Exception):  # until P closes [M82] or is silent [M87]; it cannot stop us any more [M81]
    while True:  # `+=` would forget what is answered during the wait
        us["requests"] = count(*receive(old, "draining", "farewell", ms=offer["drain_timeout_ms"])) + us["requests"]
with contextlib.suppress(OSError): send(old, type="settled", ending="handed_over")  # P is not to take back now [M83]
print("heard the farewell", json.dumps(us), flush=True)
while serving:
    serve(control, time.monotonic() + 1e9)
    new = control.accept()[0]
    try:
        send(new, type="hello", protocol={"min": 1, "max": 1}, name="http", version="peer.py", phase="serving", **us)
        receive(new, "receive", ms=5000)
        send(new, **{**offer, **us, **state(), "files": [open(os.pidfd_open(us["pid"]))]})
        send(new, files, type="descriptors", batch=0, entries=entries)
        receive(new, "received", ms=10000)
        send(new, **state(), type="state")
        while receive(new, "progress", "ready", ms=offer["ready_timeout_ms"])[0]["type"] != "ready": pass
        serving.clear()  # what comes from here on waits for the successor, in the kernel [M51]
    except Exception as failure:  # whatever it is, the service is still ours [M70]
        with contextlib.suppress(OSError): send(new, type="abort", code="application", reason=repr(failure))
send(new, **state(), type="release", monotonic_us=time.monotonic_ns() // 1000)
receive(new, "active", ms=offer["active_timeout_ms"])
send(new, type="farewell", more=False); print("released", flush=True)
