package mesherstream_test

import (
	"testing"

	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestMain(m *testing.M) { streamtest.Main(m) }
