//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

// A Caller speaks HTTP to a unix socket, from this process: to an engine, or to a plugin as
// the engine does. The start of the docker command takes as much processor time as what it
// asks for.
type Caller struct{ *http.Client }

// Dial makes a caller; find returns the path of the socket on this machine, for each
// connection anew.
func Dial(find func() (string, error)) Caller {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		path, err := find()
		if err != nil {
			return nil, err
		}
		// A path below /proc is longer than the address of a socket may be.
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	}
	return Caller{&http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16}}}
}

// API calls the host's engine. Its idle connections are the caller's to close.
func (h *Host) API() Caller {
	return Dial(func() (string, error) { return h.DockerSocket(), nil })
}

// Send sends a body as it is.
func (c Caller) Send(ctx context.Context, method, path string, body []byte) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://host"+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	out, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(out), errors.Join(err, resp.Body.Close())
}

// Call sends a document; an answer of failure is an error.
func (c Caller) Call(ctx context.Context, method, path string, doc any) (string, error) {
	body, err := json.Marshal(doc)
	if err != nil {
		return "", err
	}
	status, answer, err := c.Send(ctx, method, path, body)
	if err == nil && status >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %d %s", method, path, status, answer)
	}
	return answer, err
}
