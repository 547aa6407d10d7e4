package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Config is what [Open] takes.
type Config struct {
	// Logger gets what is odd but not fatal; nil logs nothing.
	Logger *slog.Logger
}

// A Host is the kernel of the network namespace in which it was opened. It is
// safe for concurrent use.
type Host struct {
	log   *slog.Logger
	nl    *netlink.Handle
	proc  *procfs
	netns uint64 // inode of the host's namespace

	mu  sync.Mutex // one request at a time on raw
	raw *nl.SocketHandle

	batch *batchSocket
}

// Open connects to the kernel of the calling thread's network namespace.
// It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for sandboxes and sysctls.
func Open(cfg Config) (*Host, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	sock, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	batch, err := openBatch()
	if err != nil {
		h.Close()
		sock.Close()
		return nil, err
	}
	proc, err := openProc()
	if err != nil {
		h.Close()
		sock.Close()
		return nil, errors.Join(err, batch.Close())
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		h.Close()
		sock.Close()
		return nil, errors.Join(fmt.Errorf("stat own network namespace: %w", err), batch.Close(), proc.Close())
	}
	return &Host{log: log, nl: h, raw: &nl.SocketHandle{Socket: sock}, batch: batch, proc: proc, netns: st.Ino}, nil
}

// Close frees the sockets. Nothing in the kernel changes.
func (h *Host) Close() error {
	h.nl.Close()
	h.raw.Close()
	return errors.Join(h.batch.Close(), h.proc.Close())
}

// execute sends one hand-made request on the long-lived socket.
func (h *Host) execute(req *nl.NetlinkRequest) error {
	_, err := h.ask(req)
	return err
}

// ask does the same and returns the kernel's answer.
func (h *Host) ask(req *nl.NetlinkRequest) ([][]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.raw}
	return req.Execute(unix.NETLINK_ROUTE, 0)
}

// dump repeats a netlink list that a concurrent change interrupted, as the
// kernel demands (NLM_F_DUMP_INTR).
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const attempts = 5
	var out []T
	var err error
	for range attempts {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

// vocabulary turns the kernel's answer into this package's errors.
func vocabulary(err error) error {
	var notFound netlink.LinkNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &notFound), errors.Is(err, syscall.ENODEV), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w (%w)", ErrNotFound, err)
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("%w (%w)", ErrExists, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%w (%w)", ErrNotSupported, err)
	}
	return err
}

// noRoute turns the kernel's ways to say that no route leads there into
// ErrNotFound.
func noRoute(err error) error {
	for _, e := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EACCES, syscall.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w (%w)", ErrNotFound, err)
		}
	}
	return vocabulary(err)
}

// ipNet converts a prefix for the netlink library.
func ipNet(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: prefixNet(p)}
}
