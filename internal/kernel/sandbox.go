package kernel

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nsfsMagic marks files that are namespaces (linux/magic.h).
const nsfsMagic = 0x6e736673

// openSandbox opens a network namespace that is not the host's own.
func (h *Host) openSandbox(path string) (netns.NsHandle, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("sandbox %s: %w", path, vocabulary(err))
	}
	ns := netns.NsHandle(fd)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil {
		return -1, errors.Join(fmt.Errorf("sandbox %s: %w", path, err), ns.Close())
	}
	if fs.Type != nsfsMagic || st.Ino == h.netns {
		return -1, errors.Join(fmt.Errorf("sandbox %s: %w: no namespace is mounted there", path, ErrNotFound), ns.Close())
	}
	return ns, nil
}

// SandboxExists reports whether a namespace other than the host's own is
// mounted at path. Engines before 28 call Join before it is.
func (h *Host) SandboxExists(path string) bool {
	ns, err := h.openSandbox(path)
	if err != nil {
		return false
	}
	_ = ns.Close() // a descriptor that was only looked at
	return true
}

// Attach makes a pair whose peer is in the sandbox, with its addresses, and up.
// Two link messages; it returns the peer's name. What was made is removed
// again when it fails.
func (h *Host) Attach(a Attachment) (ifname string, retErr error) {
	ns, err := h.openSandbox(a.Sandbox)
	if err != nil {
		return "", err
	}
	defer func() { retErr = errors.Join(retErr, ns.Close()) }()
	ifname, err = h.createIn(a, int(ns))
	if err != nil {
		return "", err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, h.DeleteLink(a.Host))
		}
	}()
	if a.Isolated || a.Hairpin {
		if err := h.EnsurePort(a.Veth); err != nil {
			return "", err
		}
	}
	err = inside(ns, func() error { return h.configure(a, ifname) })
	if err != nil {
		return "", fmt.Errorf("sandbox %s: %w", a.Sandbox, err)
	}
	return ifname, nil
}

// createIn makes the pair under the lowest free name of the sandbox.
func (h *Host) createIn(a Attachment, ns int) (string, error) {
	if a.Peer != "" {
		return a.Peer, h.createVeth(a.Veth, a.Peer, ns)
	}
	const most = 64 // interfaces of one kind in one container
	var err error
	for i := range most {
		name := a.Prefix + strconv.Itoa(i)
		err = h.createVeth(a.Veth, name, ns)
		if !errors.Is(err, ErrExists) {
			return name, err
		}
		if _, lookup := h.nl.LinkByName(a.Host); lookup == nil {
			return "", err // the host end is what exists
		}
	}
	return "", err
}

// configure runs inside the sandbox: settings, addresses, up.
func (h *Host) configure(a Attachment, ifname string) error {
	for _, s := range a.Sysctls {
		if err := h.proc.write(expand(s, ifname)); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	link, err := nl.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("link %s: %w", ifname, vocabulary(err))
	}
	for _, p := range a.Addrs {
		addr := ipNet(p)
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: add address %s: %w", ifname, p, err)
		}
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: set up: %w", ifname, err)
	}
	if a.Down {
		return nil // nobody would hear of it
	}
	mac := link.Attrs().HardwareAddr
	if a.MAC != nil {
		mac = a.MAC
	}
	return announce(link.Attrs().Index, mac, a.Addrs)
}

// inside runs fn on a thread that is in the namespace. When the thread cannot
// be brought back it is never used again: the goroutine ends locked to it.
func inside(ns netns.NsHandle, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0) // os.Open would have it watched
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer unix.Close(own)
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = fn()
		if back := unix.Setns(own, unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
