import java.io.IOException;
import java.net.ConnectException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

/**
 * Gets URL so often, and prints how often it succeeded, or "refused". The addresses of the name are
 * tried one after another, half of the times by java.net and half by java.nio.
 */
public class Fetch {
    public static void main(String[] arguments) throws IOException {
        int tries = Integer.parseInt(arguments[0]);
        URI url = URI.create(arguments[1]);
        int good = 0;
        for (int i = 0; i < tries; i++) {
            try (Socket socket = connect(url, i % 2 == 0)) {
                String request = "GET / HTTP/1.1\r\nHost: " + url.getHost() + "\r\n\r\n";
                socket.getOutputStream().write(request.getBytes(StandardCharsets.US_ASCII));
                byte[] answer = socket.getInputStream().readAllBytes();
                if (new String(answer, StandardCharsets.US_ASCII).endsWith("origin")) {
                    good++;
                }
            } catch (ConnectException error) {
                if (tries == 1 && "Connection refused".equals(error.getMessage())) {
                    System.out.println("refused");
                    return;
                }
                System.err.println(error);
            } catch (IOException error) {
                System.err.println(error);
            }
        }
        System.out.println(good + " of " + tries);
    }

    private static Socket connect(URI url, boolean channel) throws IOException {
        IOException last = null;
        for (InetAddress address : InetAddress.getAllByName(url.getHost())) {
            InetSocketAddress to = new InetSocketAddress(address, url.getPort());
            try {
                if (channel) {
                    return SocketChannel.open(to).socket();
                }
                Socket socket = new Socket();
                socket.connect(to, 10_000);
                return socket;
            } catch (IOException error) {
                last = error;
            }
        }
        throw last;
    }
}
