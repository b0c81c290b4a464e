"""Takes the service of the example `http` over, serves, and gives it to the next process that asks for it.

usage: python3 examples/peer.py CONTROL_SOCKET (Python 3.9; to give, Linux 6.5)

Written from protocol.md: [M19] is a requirement there, P the predecessor. docs/writing-a-peer.md walks through this
file, and says what it leaves out. The other side's silence or end is an OSError here, and its mistakes ValueErrors."""
import contextlib, fcntl, json, mmap, os, select, signal, socket, struct, sys, time

SO_PEERPIDFD, SPEAKS = 77, {"min": 1, "max": 1}  # a number of Linux's that Python does not name; protocol versions
us = {"pid": os.getpid(), "generation": 1, "requests": 0}  # what every request is answered with

def owned(fd):
    """The descriptor in an object that closes it."""
    return open(fd, "rb", buffering=0)

def send(sock, kind, *fds, **fields):
    line = json.dumps({"type": kind, **fields}).encode() + b"\n"
    sent = socket.send_fds(sock, [line], [each.fileno() for each in fds])  # they ride on the first byte [M19]
    if sent < len(line):
        sock.sendall(line[sent:])  # and have gone with it [M20]

def receive(sock, seconds, *kinds):
    """The next frame, which has to be of one of these kinds, and its descriptors."""
    sock.settimeout(seconds)
    first, fds, flags, _ = socket.recv_fds(sock, 1, 253, socket.MSG_CMSG_CLOEXEC)  # [M22]
    fds = [owned(fd) for fd in fds]  # which closes them where they are not wanted [M24, M26]
    # Unbuffered, so that it ends with this line: to read on would be to lose the next frame's descriptors [M23].
    line = first + sock.makefile("rb", buffering=0).readline(131071)
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the other side has closed, or its line is too long")
    frame = json.loads(line)
    if frame["type"] not in kinds:
        raise ValueError("out_of_order", line.decode())
    riders = {"offer": frame.get("pidfd"), "descriptors": len(frame.get("entries", []))}
    riders.update(dict.fromkeys(["state", "release", "farewell"], frame.get("state") is not None))
    if flags & socket.MSG_CTRUNC or len(fds) != riders.get(frame["type"], 0):
        raise ValueError("descriptors", f"{len(fds)} came with {frame['type']}")  # [M25]
    return frame, fds

def refuse(sock, kind, failure):
    """Says why, with an `error` or an `abort` [M88]. Nobody may be there to read it."""
    code = "application" if isinstance(failure, OSError) else "malformed"
    code = "timeout" if isinstance(failure, socket.timeout) else code
    code, text = failure.args if type(failure) is ValueError else (code, repr(failure))
    print(f"failed: {code}: {text}", flush=True)
    with contextlib.suppress(OSError):
        send(sock, kind, code=code, message=text, reason=text)

def check_user(sock):
    """Trusts root and our own user, as the kernel names them [M28, M29]."""
    if struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] not in (0, os.geteuid()):
        raise ValueError("denied", "neither root nor our own user")

def write_state():
    """The counter as bincode writes a u64 (docs/spec.md there): below 251 in one byte, or a mark and 2, 4 or 8."""
    memfd = owned(os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    length = os.write(memfd.fileno(), struct.pack("<BQ", 253, us["requests"]))
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, 15)  # SEAL, SHRINK, GROW and WRITE [M60]
    return memfd, {"length": length, "schema": 0, "codec": "bincode2+serde"}

def read_state(frame, memfd):
    sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE  # or else it could be cut short under the mapping [M61]
    if fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & sealed == sealed:
        data = mmap.mmap(memfd.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)  # not shared: older kernels refuse that
    else:
        data = os.pread(memfd.fileno(), 10, 0)  # not at the descriptor's offset, which P can move [M62]
    if len(data) != frame["state"]["length"]:
        raise ValueError("malformed", f"a state of {len(data)} bytes is announced as {frame['state']}")  # [M63]
    return int.from_bytes(data[1:] or data[:], "little")

def adopt(entry, fd):
    """A listener that has arrived, if it is what the manifest says [M59]."""
    sock = socket.socket(fileno=os.dup(fd.fileno()))
    kind, addr = "unix_listener", sock.getsockname()
    if sock.family != socket.AF_UNIX:
        kind, addr = "tcp_listener", ("[%s]:%d" if ":" in addr[0] else "%s:%d") % addr[:2]
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or (kind, addr) != (entry["kind"], entry["addr"]):
        raise ValueError("descriptors", f"{entry} has arrived as {sock}")
    return sock

def take(sock):
    """Goes from the greeting to where the service is ours. Returns the offer, its entries and their listeners."""
    check_user(sock)
    speaks = receive(sock, 60, "hello")[0]["protocol"]
    if not speaks["min"] <= 1 <= speaks["max"]:
        raise ValueError("version", "this peer speaks version 1")  # [M40]
    send(sock, "receive", protocol=SPEAKS, pid=us["pid"], version="peer.py", schemas=[0])
    offer, pidfd = receive(sock, 60, "offer")
    entries, listeners = [], []
    for number in range(offer["batches"]):
        batch, fds = receive(sock, 10, "descriptors")
        if batch["batch"] != number:
            raise ValueError("malformed", f"batch {batch['batch']} comes in the place of {number}")  # [M45]
        entries += batch["entries"]
        listeners += map(adopt, batch["entries"], fds)
        send(sock, "received", batch=number)
    if sorted(entry["name"] for entry in entries) != ["@control", "http"]:
        raise ValueError("descriptors", "this peer wants `http`, and has no use for more")  # [M56]
    state, memfd = receive(sock, 10, "state")
    if state["state"] != offer["state"]:
        raise ValueError("malformed", "the state is not the one that was offered")  # [M46]
    us.update(generation=offer["generation"] + 1, requests=read_state(state, *memfd))
    try:
        send(sock, "ready")
        release, memfd = receive(sock, 30, "release")
        # The whole count once more. If it cannot be read we fail here, not accepting yet, and P takes back [M80].
        us["requests"] = read_state(release, *memfd) if memfd else us["requests"]
        send(sock, "active")
    except OSError:
        # Closed or silent, P still owns the service. Dead, it has left it to us [M67, M72, M73].
        if not select.select(pidfd, [], [], 0.25)[0]:
            raise
    print(f"serving generation={us['generation']} pid={us['pid']} requests={us['requests']}", flush=True)
    return offer, entries, listeners

def serve(http, *others, seconds=None):
    """Answers requests until some of the others have something to say, or nobody has for so long. Returns those."""
    while (ready := select.select([http, *others], [], [], seconds)[0]) == [http]:
        # A client that breaks off harms nobody. One that is slow holds up the others: this is an example.
        with contextlib.suppress(OSError), http.accept()[0] as client, client.makefile("rb") as request:
            client.settimeout(5)
            if request.readline():
                while request.readline().strip():
                    pass
                us["requests"] += 1
                body = json.dumps(us, separators=(",", ":"))
                head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                client.sendall((head + body).encode())
    return [other for other in others if other in ready]

def hear_farewells(old, http, seconds):
    """Adds what the predecessor's last connections change. Waits no longer than it said [M87]."""
    until, more = time.monotonic() + seconds, True
    with contextlib.suppress(Exception):  # nothing that P does now can make us stop serving [M81]
        while more and serve(http, old, seconds=max(0, until - time.monotonic())):
            frame, memfd = receive(old, 5, "draining", "farewell")
            us["requests"] += read_state(frame, *memfd) if memfd else 0
            more = frame.get("more", True)

def hear(sock, http, seconds, *kinds):
    """Serves until there is a frame to receive. Says what it is."""
    serve(http, sock, seconds=seconds)
    return receive(sock, 1, *kinds)[0]["type"]

def give(sock, offer, entries, listeners, http):
    """Hands over. Returns whether the service is gone; an exception says that it never ceased to be ours."""
    pidfd = owned(sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    memfd, state = write_state()
    send(sock, "offer", owned(os.pidfd_open(us["pid"])), protocol=1, generation=us["generation"], pid=us["pid"],
         pidfd=True, descriptors=2, batches=1, state=state, path=offer.get("path"), history=offer["history"],
         ready_timeout_ms=60000, active_timeout_ms=5000, drain_timeout_ms=5000)
    send(sock, "descriptors", *listeners, batch=0, entries=entries)
    hear(sock, http, 10, "received")
    send(sock, "state", memfd, state=state)
    while hear(sock, http, 60, "progress", "ready") != "ready":
        pass  # it has the whole time once more [M47]
    # From here on nobody calls `serve`, so nothing is accepted any more, and nothing is left to drain [M51].
    memfd, state = write_state()
    try:
        send(sock, "release", memfd, state=state, monotonic_us=time.monotonic_ns() // 1000)
        if receive(sock, 5, "active", "abort")[0]["type"] == "abort":
            return False  # it has not served, and will not [M74]
    except Exception:
        # It may be serving all the same: only its death gives the service back. Where the kernel refuses to end it,
        # we stay out and wait [M77, M78, M79].
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        select.select([pidfd], [], [])
        return False
    print("released", flush=True)
    try:
        send(sock, "farewell", state=None, more=False)
        # On probation: if it dies, and has not said that it ends in good order, we take back [M75, M76].
        return receive(sock, 1, "settled", "abort")[0]["type"] == "settled"
    except Exception:
        return not select.select([pidfd], [], [], 0.25)[0]

def greet(control):
    """Begins the conversation with whoever has connected [M30]."""
    sock, _ = control.accept()
    try:
        check_user(sock)
    except ValueError as failure:
        return refuse(sock, "error", failure)
    send(sock, "hello", protocol=SPEAKS, name="http", version="peer.py", pid=us["pid"], generation=us["generation"],
         phase="serving")
    return sock

def converse(sock, unsettled, *service):
    """Reads what a client asks for, which has to be the service. Returns whether that is gone."""
    kind = "error"
    try:
        request, _ = receive(sock, 5, "receive")
        if not request["protocol"]["min"] <= 1 <= request["protocol"]["max"]:
            raise ValueError("version", "this peer speaks version 1")  # [M39]
        kind = "abort"
        if 0 not in request["schemas"]:
            raise ValueError("schema", "the state has schema 0")  # [M43]
        print(f"giving to pid={request['pid']}", flush=True)
        with contextlib.suppress(OSError):
            while unsettled:
                send(unsettled.pop(), "settled")  # P must not take back any more when we end [M83]
        gone = give(sock, *service)
        print("gone" if gone else "taken back", flush=True)
        return gone
    except Exception as failure:
        refuse(sock, kind, failure)

def main(path):
    old = socket.socket(socket.AF_UNIX)
    old.connect(path)
    try:
        offer, entries, listeners = take(old)
    except Exception as failure:
        refuse(old, "abort", failure)
        sys.exit(1)
    control, http = sorted(listeners, key=lambda listener: listener.family)  # AF_UNIX comes before AF_INET
    for listener in listeners:
        listener.setblocking(False)  # the flag is shared with P, which may have left it out [M9]
    control.listen()  # SO_PEERCRED names us to those who connect from here on
    # We can give to nobody before this [M84], so whoever connects meanwhile waits in the backlog.
    hear_farewells(old, http, offer["drain_timeout_ms"] / 1000)
    print(f"heard the farewell requests={us['requests']}", flush=True)
    clients, unsettled = [], [old]
    while True:
        for sock in serve(http, control, *clients):
            if sock is control:
                with contextlib.suppress(OSError):
                    clients += filter(None, [greet(control)])
            else:
                clients.remove(sock)
                if converse(sock, unsettled, offer, entries, listeners, http):
                    return

if __name__ == "__main__":
    main(*sys.argv[1:])
