// Command netload is the load and the clock of the overlay benchmark. It runs in a
// container's network namespace or in a host's.
//
//	netload stay                           prints when it began, twice, and stays
//	netload serve ADDRESS:PORT             answers rr and stream
//	netload rr ADDRESS:PORT DURATION       prints exchanges of one byte per second
//	netload stream ADDRESS:PORT DURATION   prints megabits per second, as received
//	netload ping ADDRESS LIMIT             pings every millisecond until an answer comes; prints
//	                                       when it began and when that was, in ns since 1970
//	netload resolve NAME LIMIT             asks 127.0.0.11 until it knows the name; prints the same
//
// rr and stream use blocking system calls: Go's poller would cost as much as what is
// measured.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// What the first byte of a connection asks for.
const (
	exchange = 'r'
	sink     = 's'
)

// chunk is how much stream writes at once.
const chunk = 128 << 10

func main() {
	if len(os.Args) == 2 && os.Args[1] == "stay" {
		fmt.Fprintln(os.Stdout, since(time.Now(), time.Now()))
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		<-ctx.Done()
		stop()
		return
	}
	line, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "netload:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, line)
}

func run(args []string) (string, error) {
	if len(args) == 2 && args[0] == "serve" {
		return "", serve(args[1])
	}
	const words = 3
	if len(args) != words {
		return "", errors.New("usage: netload stay | serve ADDRESS:PORT | rr|stream ADDRESS:PORT DURATION | ping ADDRESS LIMIT | resolve NAME LIMIT")
	}
	length, err := time.ParseDuration(args[2])
	if err != nil {
		return "", err
	}
	switch args[0] {
	case "rr":
		return roundTrips(args[1], length)
	case "stream":
		return stream(args[1], length)
	case "ping":
		return ping(args[1], length)
	case "resolve":
		return resolve(args[1], length)
	}
	return "", fmt.Errorf("no command %q", args[0])
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := answer(conn); err != nil {
				fmt.Fprintln(os.Stderr, "netload:", err)
			}
		}()
	}
}

// blocking takes the file descriptor of a connection out of Go's hands.
func blocking(conn net.Conn) (*os.File, error) {
	defer conn.Close()
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("%T is no TCP connection", conn)
	}
	f, err := tcp.File()
	if err == nil {
		err = syscall.SetNonblock(int(f.Fd()), false)
	}
	return f, err
}

func answer(conn net.Conn) error {
	f, err := blocking(conn)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, chunk)
	fd := int(f.Fd())
	if _, err := syscall.Read(fd, buf[:1]); err != nil {
		return err
	}
	var sum uint64
	for how := buf[0]; ; {
		n, err := syscall.Read(fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return err
		case n == 0 && how == sink:
			_, err = syscall.Write(fd, binary.BigEndian.AppendUint64(nil, sum))
			return err
		case n == 0:
			return nil
		}
		sum += uint64(n)
		if how == exchange {
			if _, err := syscall.Write(fd, buf[:n]); err != nil {
				return err
			}
		}
	}
}

// open connects and says what the connection is for.
func open(address string, what byte) (*os.File, error) {
	const limit = 5 * time.Second
	conn, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		return nil, err
	}
	f, err := blocking(conn)
	if err != nil {
		return nil, err
	}
	_, err = f.Write([]byte{what})
	return f, err
}

func roundTrips(address string, length time.Duration) (string, error) {
	f, err := open(address, exchange)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fd, one := int(f.Fd()), []byte{0}
	n, begin := 0, time.Now()
	for time.Since(begin) < length {
		if _, err := syscall.Write(fd, one); err != nil {
			return "", err
		}
		if _, err := syscall.Read(fd, one); err != nil && !errors.Is(err, syscall.EINTR) {
			return "", err
		}
		n++
	}
	return fmt.Sprintf("%.0f", float64(n)/time.Since(begin).Seconds()), nil
}

func stream(address string, length time.Duration) (string, error) {
	f, err := open(address, sink)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fd, buf, begin := int(f.Fd()), make([]byte, chunk), time.Now()
	for time.Since(begin) < length {
		if _, err := syscall.Write(fd, buf); err != nil && !errors.Is(err, syscall.EINTR) {
			return "", err
		}
	}
	if err := syscall.Shutdown(fd, syscall.SHUT_WR); err != nil {
		return "", err
	}
	var sum [8]byte
	if _, err := io.ReadFull(f, sum[:]); err != nil {
		return "", err
	}
	const bits, mega = 8, 1e6
	return fmt.Sprintf("%.0f", float64(binary.BigEndian.Uint64(sum[:]))*bits/mega/time.Since(begin).Seconds()), nil
}

// ping sends echo requests without waiting for answers, as someone would who cannot
// know when the other one is there.
func ping(address string, limit time.Duration) (string, error) {
	to, err := net.ResolveIPAddr("ip4", address)
	if err != nil {
		return "", err
	}
	conn, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	id := uint16(os.Getpid())
	begin := time.Now()
	go func() {
		defer func() { _ = conn.Close() }()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for seq := uint16(1); ; seq++ {
			_, _ = conn.WriteTo(echo(id, seq), to) // nobody there yet is what is waited out
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return "", fmt.Errorf("no answer from %s within %v", address, limit)
		case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
			continue
		case err != nil:
			return "", err
		}
		const reply = 0
		if n >= 8 && buf[0] == reply && binary.BigEndian.Uint16(buf[4:]) == id && from.String() == to.String() {
			return since(begin, time.Now()), nil
		}
	}
}

func since(begin, end time.Time) string {
	return fmt.Sprintf("%d %d", begin.UnixNano(), end.UnixNano())
}

// echo is an ICMP echo request.
func echo(id, seq uint16) []byte {
	const request = 8
	b := []byte{request, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, seq)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}
