package names

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// frameHeader is the length in front of each message.
const frameHeader = 2

// serveTCP accepts until the server is closed.
func (s *server) serveTCP() {
	for {
		s.conns <- struct{}{}
		c, err := s.tcp.AcceptTCP()
		if err != nil {
			s.fail(err)
			return
		}
		s.accepted.Add(1)
		go func() {
			defer func() { <-s.conns }()
			if s.keep(c) {
				s.converse(c)
			}
			s.open.drop(c)
		}()
	}
}

// converse answers one question after the other, as the engine's resolver does. A
// connection to the engine is made when the first question needs one.
func (s *server) converse(client *net.TCPConn) {
	var engine *net.TCPConn
	defer func() {
		if engine != nil {
			s.open.drop(engine)
		}
	}()
	for {
		message, err := readFrame(client, time.Now().Add(patience(s.conns)))
		if err != nil {
			return
		}
		reply, verdict := Answer(make([]byte, frameHeader), message[frameHeader:], true, *s.lookup.Load(), rand.Uint32())
		switch verdict {
		case Drop:
			return
		case Pass:
			if reply, engine, err = s.passTCP(engine, message); err != nil {
				reply = Failure(make([]byte, frameHeader), message[frameHeader:])
			}
		}
		if len(reply) <= frameHeader {
			return
		}
		binary.BigEndian.PutUint16(reply, uint16(len(reply)-frameHeader))
		if err := writeFrame(client, reply); err != nil {
			return
		}
	}
}

// passTCP sends a frame to the engine and returns its next one, both as they are, and the
// connection for the next time, or nil. One that was used before may have been closed.
func (s *server) passTCP(engine *net.TCPConn, frame []byte) ([]byte, *net.TCPConn, error) {
	if engine != nil {
		if reply, err := exchangeTCP(engine, frame); err == nil {
			return reply, engine, nil
		}
		s.open.drop(engine)
	}
	engine, err := s.sandbox.DialTCP(s.dialing(), passTime)
	if err != nil {
		return nil, nil, err
	}
	if !s.keep(engine) {
		return nil, nil, errors.Join(errClosed, engine.Close())
	}
	reply, err := exchangeTCP(engine, frame)
	if err != nil {
		s.open.drop(engine)
		return nil, nil, err
	}
	return reply, engine, nil
}

func exchangeTCP(engine *net.TCPConn, frame []byte) ([]byte, error) {
	if err := writeFrame(engine, frame); err != nil {
		return nil, err
	}
	return readFrame(engine, time.Now().Add(passTime))
}

// readFrame reads a message with its length in front. It holds no memory before it knows
// the length.
func readFrame(c *net.TCPConn, deadline time.Time) ([]byte, error) {
	if err := c.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	var header [frameHeader]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, frameHeader+int(binary.BigEndian.Uint16(header[:])))
	copy(frame, header[:])
	_, err := io.ReadFull(c, frame[frameHeader:])
	return frame, err
}

func writeFrame(c *net.TCPConn, frame []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(idleTime)); err != nil {
		return err
	}
	_, err := c.Write(frame)
	return err
}
