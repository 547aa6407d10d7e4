package e2e_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/weft-net/weft/test/lab"
)

// driver talks to weft as the engine does.
func (s *site) driver() lab.Caller {
	return lab.Dial(func() (string, error) {
		found, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/docker/plugins/*/weft.sock", s.PID()))
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("sockets of weft: %v", found)
		}
		return strings.Join(found, ""), err
	})
}

// api talks to the engine: many times as fast as the docker command.
func (s *site) api() lab.Caller { return s.API() }

// object is a JSON document.
type object map[string]any

// ask calls a method of the driver and expects success.
func (s *site) ask(method string, doc object) string {
	s.Helper()
	out, err := s.driver().Call(s.Context(), http.MethodPost, "/"+method, doc)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// askInVain calls a method of the driver that must answer an error with these
// words.
func (s *site) askInVain(method string, doc object, words ...string) {
	s.Helper()
	out, err := s.driver().Call(s.Context(), http.MethodPost, "/"+method, doc)
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
