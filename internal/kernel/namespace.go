package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Sandbox is a container's network namespace, kept open to make sockets in it. The
// sockets are used from anywhere. Each of them, and the Sandbox itself, keeps the
// namespace alive after its container: close them. It is safe for concurrent use.
type Sandbox struct{ file *os.File }

// OpenSandbox opens the namespace that is mounted at path. It is ErrNotFound while
// there is none; see [Host.SandboxExists].
func (h *Host) OpenSandbox(path string) (*Sandbox, error) {
	ns, err := h.openSandbox(path)
	if err != nil {
		return nil, err
	}
	return &Sandbox{os.NewFile(uintptr(ns), path)}, nil
}

// File is the open namespace, for whoever has to enter it. It is the Sandbox's: do not
// close it.
func (s *Sandbox) File() *os.File { return s.file }

// Close lets go of the namespace.
func (s *Sandbox) Close() error { return s.file.Close() }

// At says whether this very namespace is still mounted at path.
func (s *Sandbox) At(path string) bool {
	there, err1 := os.Stat(path)
	own, err2 := s.file.Stat()
	return err1 == nil && err2 == nil && os.SameFile(there, own)
}

// ListenUDP makes a socket that is bound to the address; port 0 is any that is free.
func (s *Sandbox) ListenUDP(at netip.AddrPort) (c *net.UDPConn, err error) {
	err = s.make(func() error {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return c, err
}

// ListenTCP makes a listening socket; port 0 is any that is free.
func (s *Sandbox) ListenTCP(at netip.AddrPort) (l *net.TCPListener, err error) {
	err = s.make(func() error {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	return l, err
}

// A Dialing is a socket that talks to one address only.
type Dialing struct {
	// From is the local address, of the same family as To; the zero Addr is any.
	From netip.Addr
	To   netip.AddrPort
}

// DialUDP makes a socket that talks to one address.
func (s *Sandbox) DialUDP(d Dialing) (*net.UDPConn, error) {
	c, err := s.dial(unix.SOCK_DGRAM, d)
	if err != nil {
		return nil, err
	}
	return as[*net.UDPConn](c)
}

// DialTCP connects within the timeout.
func (s *Sandbox) DialTCP(d Dialing, timeout time.Duration) (*net.TCPConn, error) {
	c, err := s.dial(unix.SOCK_STREAM, d)
	if err != nil {
		return nil, err
	}
	conn, err := as[*net.TCPConn](c)
	if err != nil {
		return nil, err
	}
	if err := established(conn, time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", d.To, err), conn.Close())
	}
	return conn, nil
}

// dial makes a socket in the namespace and starts to connect it.
func (s *Sandbox) dial(kind int, d Dialing) (conn net.Conn, retErr error) {
	family := unix.AF_INET6
	if d.To.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	fd := -1
	err := s.make(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.To.String())
	defer func() { retErr = errors.Join(retErr, f.Close()) }() // conn has a descriptor of its own
	if d.From.IsValid() {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(d.From, 0))); err != nil {
			return nil, fmt.Errorf("bind a socket to %s: %w", d.From, err)
		}
	}
	if err := unix.Connect(fd, sockaddr(d.To)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("connect to %s: %w", d.To, err)
	}
	conn, err = net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket to %s: %w", d.To, err)
	}
	return conn, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// as narrows what net.FileConn returns.
func as[C net.Conn](c net.Conn) (C, error) {
	if conn, ok := c.(C); ok {
		return conn, nil
	}
	var none C
	return none, errors.Join(fmt.Errorf("the socket is a %T, not a %T", c, none), c.Close())
}

// established waits until the connection stands or failed.
func established(c *net.TCPConn, deadline time.Time) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(deadline); err != nil {
		return err
	}
	failed := 0
	var optErr error
	err = rc.Write(func(fd uintptr) bool {
		if failed, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); optErr != nil || failed != 0 {
			return true
		}
		_, peerErr := unix.Getpeername(int(fd))
		return peerErr == nil
	})
	if failed != 0 {
		return unix.Errno(failed)
	}
	return errors.Join(err, optErr, c.SetWriteDeadline(time.Time{}))
}

// make runs fn inside the namespace, which stays open meanwhile.
func (s *Sandbox) make(fn func() error) error {
	rc, err := s.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", s.file.Name(), err)
	}
	closed := rc.Control(func(fd uintptr) { err = inside(netns.NsHandle(int(fd)), fn) })
	if err := errors.Join(closed, err); err != nil {
		return fmt.Errorf("sandbox %s: %w", s.file.Name(), err)
	}
	return nil
}
