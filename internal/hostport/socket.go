package hostport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Protocol numbers of the ports that Docker can publish.
const (
	protoTCP  = unix.IPPROTO_TCP
	protoUDP  = unix.IPPROTO_UDP
	protoSCTP = unix.IPPROTO_SCTP
)

func describe(proto uint8, at netip.AddrPort) string {
	name := map[uint8]string{protoTCP: "tcp", protoUDP: "udp", protoSCTP: "sctp"}[proto]
	return fmt.Sprintf("%s/%s", at, name)
}

// open binds a port and serves what reaches the socket. It returns the bound
// port and what frees it. TCP listens for both families: only a listening
// socket keeps out programs that set SO_REUSEADDR. An IPv4 UDP socket and SCTP
// are bound and no more.
func open(proto uint8, at, target netip.AddrPort, log *slog.Logger) (uint16, func(), error) {
	if proto == protoTCP || proto == protoUDP && at.Addr().Is6() {
		return serve(proto, at, target, log)
	}
	typ := unix.SOCK_STREAM
	if proto == protoUDP {
		typ = unix.SOCK_DGRAM
	}
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, int(proto))
	if proto == protoSCTP && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)) {
		return at.Port(), func() {}, nil // a kernel without SCTP has nobody who could take the port
	}
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	port, err := bind(fd, at)
	if err != nil {
		return 0, nil, errors.Join(err, unix.Close(fd))
	}
	// The descriptor frees itself only here; nothing reads from it.
	return port, func() { _ = unix.Close(fd) }, nil
}

func bind(fd int, at netip.AddrPort) (uint16, error) {
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(at.Port()), Addr: as4(at.Addr())}
	if at.Addr().Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
		sa = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		return uint16(b.Port), nil
	case *unix.SockaddrInet6:
		return uint16(b.Port), nil
	}
	return 0, fmt.Errorf("bind %s: unexpected socket address %T", at, bound)
}

// serve listens on a port and proxies to the target.
func serve(proto uint8, at, target netip.AddrPort, log *slog.Logger) (uint16, func(), error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse(proto))
			if at.Addr().Is6() {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
			}
		})
		return errors.Join(ctl, err)
	}}
	if proto == protoTCP {
		network := "tcp4"
		if at.Addr().Is6() {
			network = "tcp6"
		}
		l, err := lc.Listen(context.Background(), network, at.String())
		if err != nil {
			return 0, nil, err
		}
		go proxyTCP(l, target, log)
		return l.Addr().(*net.TCPAddr).AddrPort().Port(), closer(l, log), nil
	}
	pc, err := lc.ListenPacket(context.Background(), "udp6", at.String())
	if err != nil {
		return 0, nil, err
	}
	conn := pc.(*net.UDPConn)
	go proxyUDP(conn, target, log)
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), closer(conn, log), nil
}

// reuse lets a listener come back while old connections are in TIME_WAIT; for
// UDP it would let two sockets share a port.
func reuse(proto uint8) int {
	if proto == protoTCP {
		return 1
	}
	return 0
}

func closer(c interface{ Close() error }, log *slog.Logger) func() {
	return func() {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Debug("close published port", "err", err)
		}
	}
}

// as4 is the address's four bytes; zeros for an IPv6 address.
func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}
