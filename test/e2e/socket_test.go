package e2e_test

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
	"strings"
)

// A caller sends requests to a unix socket of the host, from this process.
type caller struct{ *http.Client }

// dialing makes a caller; find returns the socket's path on the machine.
func dialing(find func() (string, error)) caller {
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
	return caller{&http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16}}}
}

// driver talks to weft as the engine does.
func (s *site) driver() caller {
	return dialing(func() (string, error) {
		found, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/docker/plugins/*/weft.sock", s.PID()))
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("sockets of weft: %v", found)
		}
		return strings.Join(found, ""), err
	})
}

// api talks to the engine: many times as fast as the docker command.
func (s *site) api() caller {
	return dialing(func() (string, error) { return s.DockerSocket(), nil })
}

// send sends a body as it is.
func (c caller) send(ctx context.Context, method, path string, body []byte) (status int, answer string, err error) {
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

// call sends a document; an answer of failure is an error.
func (c caller) call(ctx context.Context, method, path string, doc any) (string, error) {
	body, err := json.Marshal(doc)
	if err != nil {
		return "", err
	}
	status, answer, err := c.send(ctx, method, path, body)
	if err == nil && status >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %d %s", method, path, status, answer)
	}
	return answer, err
}

// object is a JSON document.
type object map[string]any

// ask calls a method of the driver and expects success.
func (s *site) ask(method string, doc object) string {
	s.Helper()
	out, err := s.driver().call(s.Context(), http.MethodPost, "/"+method, doc)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// askInVain calls a method of the driver that must answer an error with these
// words.
func (s *site) askInVain(method string, doc object, words ...string) {
	s.Helper()
	out, err := s.driver().call(s.Context(), http.MethodPost, "/"+method, doc)
	if err == nil {
		s.Errorf("%s %v succeeded: %s", method, doc, out)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.Errorf("the error of %s lacks %q: %v", method, w, err)
		}
	}
}
