package hostport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout bounds how long a client of the proxy waits for the container.
const dialTimeout = 5 * time.Second

// acceptPause keeps a listener that cannot accept from spinning.
const acceptPause = 100 * time.Millisecond

// udpSessions bounds the clients of one port at a time; more are not served.
const udpSessions = 1024

// udpIdle ends a UDP session of the proxy; conntrack's own default for a
// stream that was answered is 120 s.
const udpIdle = 90 * time.Second

// proxyTCP accepts until the listener closes.
func proxyTCP(l net.Listener, target netip.AddrPort, log *slog.Logger) {
	for {
		client, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors are left, for instance
			log.Warn("proxy: accept", "listen", l.Addr().String(), "err", err)
			<-time.After(acceptPause)
			continue
		}
		go relay(client.(*net.TCPConn), target, log)
	}
}

// relay copies both ways and passes on the half-close of each side.
func relay(client *net.TCPConn, target netip.AddrPort, log *slog.Logger) {
	defer closer(client, log)()
	dialer := net.Dialer{Timeout: dialTimeout}
	c, err := dialer.DialContext(context.Background(), "tcp", target.String())
	if err != nil {
		log.Debug("proxy: dial", "target", target.String(), "err", err)
		_ = client.SetLinger(0) // the client sees a reset, as from a closed port
		return
	}
	server := c.(*net.TCPConn)
	defer closer(server, log)()
	var wg sync.WaitGroup
	pipe := func(dst, src *net.TCPConn) {
		if _, err := io.Copy(dst, src); err != nil {
			log.Debug("proxy: copy", "target", target.String(), "err", err)
		}
		if err := dst.CloseWrite(); err != nil {
			log.Debug("proxy: close", "target", target.String(), "err", err)
		}
	}
	wg.Go(func() { pipe(server, client) })
	pipe(client, server)
	wg.Wait()
}

// udpSession is one client's socket towards the container.
type udpSession struct {
	server *net.UDPConn
	oob    []byte // the client's view of our address, put on every answer
}

// proxyUDP serves datagrams until the socket closes. Each client has a session
// that ends when nothing came back for a while.
func proxyUDP(conn *net.UDPConn, target netip.AddrPort, log *slog.Logger) {
	raw, err := conn.SyscallConn()
	if err == nil {
		ctl := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		})
		err = errors.Join(ctl, err)
	}
	if err != nil {
		log.Warn("proxy: packet info", "err", err)
	}
	var mu sync.Mutex
	sessions := map[netip.AddrPort]*udpSession{}
	buf, oob := make([]byte, 65535), make([]byte, 128)
	for {
		n, oobn, _, client, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			break
		}
		mu.Lock()
		s := sessions[client]
		if s == nil && len(sessions) >= udpSessions {
			mu.Unlock()
			continue
		}
		if s == nil {
			if s, err = newSession(target, oob[:oobn]); err == nil {
				sessions[client] = s
				go func() {
					answers(conn, s, client, log)
					mu.Lock()
					delete(sessions, client)
					mu.Unlock()
				}()
			}
		}
		mu.Unlock()
		if err == nil {
			_, err = s.server.Write(buf[:n])
		}
		if err != nil {
			log.Debug("proxy: send", "target", target.String(), "err", err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, s := range sessions {
		_ = s.server.Close() // its reader ends with it
	}
}

func newSession(target netip.AddrPort, oob []byte) (*udpSession, error) {
	server, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target))
	if err != nil {
		return nil, err
	}
	return &udpSession{server: server, oob: append([]byte(nil), oob...)}, nil
}

// answers carries the container's datagrams back until the session is idle.
func answers(conn *net.UDPConn, s *udpSession, client netip.AddrPort, log *slog.Logger) {
	defer closer(s.server, log)()
	buf := make([]byte, 65535)
	for {
		if err := s.server.SetReadDeadline(time.Now().Add(udpIdle)); err != nil {
			return
		}
		n, err := s.server.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Debug("proxy: receive", "client", client.String(), "err", err)
			return
		}
		if _, _, err := conn.WriteMsgUDPAddrPort(buf[:n], s.oob, client); err != nil {
			log.Debug("proxy: answer", "client", client.String(), "err", err)
			return
		}
	}
}
